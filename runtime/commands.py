"""The verbs of the `vedette` command that need nothing but the runtime: data, doctor, predict."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.terminal import emit, json_option, progress, table

if TYPE_CHECKING:
    from runtime.tasks import Prediction

__all__ = ["data", "doctor", "predict"]


@click.group()
def data() -> None:
    """Look at datasets and convert them to Parquet."""


@data.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--image-column", help="The image column, if SOURCE is Parquet with several.")
@click.option("--label-column", help="The label column, if SOURCE is Parquet and it is not 'label'.")
@click.option(
    "--row-group-rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="At most so many rows in a row group; fewer where images are big.",
)
@json_option
def convert(
    source: str, out: Path, image_column: str | None, label_column: str | None, row_group_rows: int, *, as_json: bool
) -> None:
    """Write SOURCE as one Parquet file OUT.

    SOURCE: Parquet, an image folder, IDX files (MNIST family), CIFAR-10's Python archive, or the word
    `digits`; `#train` or `#test` behind it chooses a split.
    """
    from runtime.datasets import open_dataset
    from runtime.datasets.parquet import write_parquet

    dataset = open_dataset(source, image_column=image_column, label_column=label_column)
    target = out if out.suffix else out / "data.parquet"
    with progress(len(dataset), "convert", "rows") as bar:
        rows = write_parquet(dataset, target, row_group_rows=row_group_rows, advance=bar.advance)
    result = {"source": source, "out": str(target), "rows": rows, "bytes": target.stat().st_size}
    emit(result, as_json=as_json, text=f"wrote {rows} rows, {result['bytes']} bytes, to {target}")


@click.command()
@click.option("--model", "reference", required=True, help="NAME, NAME@VERSION, or the path of an artifact.")
@click.argument("image", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--provider", default="auto", show_default=True, help="auto, cpu, cuda, ...: a name is strict.")
@click.option("--store", help="The artifact store; the default one if absent.")
@json_option
def predict(reference: str, image: tuple[Path, ...], provider: str, store: str | None, *, as_json: bool) -> None:
    """Say what is on each IMAGE."""
    from runtime.predictor import Predictor
    from runtime.store import ModelStore, resolve_artifact

    artifact = resolve_artifact(reference, ModelStore.open(store) if store else None)
    predictor = Predictor(artifact, provider=provider)
    found = []
    with progress(len(image), "predict", "images") as bar:
        for path in image:
            found.append((path, predictor.predict([path])[0]))
            bar.advance()
    model = artifact.manifest.reference
    emit(
        [{"image": str(path), "model": model} | dataclasses.asdict(one) for path, one in found],
        as_json=as_json,
        text=lambda: table(("image", "label", "score"), [(path, *_summary(one)) for path, one in found]),
    )


def _summary(prediction: Prediction) -> tuple[object, ...]:
    from runtime.tasks import Classification

    return (prediction.label, round(prediction.score, 4)) if isinstance(prediction, Classification) else ("-", "-")


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Say what this machine can do: versions, and which execution providers really run."""
    from runtime.diagnosis import examine

    report = examine()
    emit(report, as_json=as_json, text=lambda: _render(report))


def _render(report: dict[str, Any]) -> str:
    facts = [(name, value) for section in ("machine", "versions") for name, value in report[section].items()]
    providers = [
        (p["provider"], "proven" if p["passed"] else "refused", _milliseconds(p["latency_ms"]), p["reason"])
        for p in report["providers"]
    ]
    parts = [
        table(("fact", "value"), facts),
        table(("execution provider", "verdict", "ms", "reason"), providers),
        *report["advice"],
    ]
    return "\n\n".join(parts)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
