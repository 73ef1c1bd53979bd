"""`vedette predict`: what a model says of pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.terminal import emit, json_option, progress, table

if TYPE_CHECKING:
    from runtime.tasks import Prediction

__all__ = ["predict"]


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
