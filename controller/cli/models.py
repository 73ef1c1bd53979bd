"""The verbs `vedette train` and `vedette model`: thin calls of `controller.lifecycle` and `controller.registry`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runtime.terminal import emit, json_option

__all__ = ["model", "train"]


@click.command()
@click.option(
    "--data", required=True, metavar="URI", help="Dataset: Parquet, image folder, IDX, CIFAR-10, or 'digits'."
)
@click.option("--arch", required=True, help="resnet18-small, tiny, or MODULE:FACTORY.")
@click.option("--epochs", required=True, type=int, help="How often the data is gone through.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of the run.")
@click.option("--image-size", type=int, help="Height and width of the input, pixels.  [default: as the data]")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate", type=float, default=2e-3, show_default=True, help="At the start; falls along a cosine."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--validation", metavar="URI", help="Held-out data.  [default: the test split, or a tenth of the data]")
@click.option("--augment", default="auto", show_default=True, metavar="auto|none|flip,crop", help="Random changes.")
@click.option("--image-column", help="Of Parquet.  [default: found out]")
@click.option("--label-column", help="Of Parquet.  [default: label]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@json_option
def train(*, as_json: bool, resume: bool, image_column: str | None, label_column: str | None, **options: Any) -> None:
    """Train a classifier; `vedette model import RUN` publishes it."""
    from controller.lifecycle.training.record import TrainingConfig
    from controller.lifecycle.training.run import train as run_training

    config = TrainingConfig(**options)
    record = run_training(config, resume=resume, image_column=image_column, label_column=label_column)
    if record.best is None:
        raise AssertionError("a finished run has a best epoch")
    result = {"out": str(config.out), **record.model_dump(mode="json", exclude={"preprocess", "run_schema"})}
    emit(
        result,
        as_json=as_json,
        text=f"{config.out}: {record.best.accuracy:.2%} of {record.held_out.rows} held-out images right "
        f"(epoch {record.best.epoch} of {record.epochs_done})",
    )
