"""The verbs `vedette model evaluate` and `vedette model card`: how good a model is, and a page that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from controller.lifecycle.evaluation.evaluate import Evaluation
    from runtime.evaluation.metrics import Confusion

__all__ = ["VERBS"]

MOST_MISTAKES = 5  # that are shown

store_option = click.option("--store", metavar="URI", help="Artifact store.  [default: under VEDETTE_HOME]")
image_column_option = click.option("--image-column", help="Of Parquet.  [default: found out]")
label_column_option = click.option(
    "--label-column", help="Of Parquet: classes, objects or masks.  [default: found out]"
)


@click.command()
@click.argument("reference", metavar="NAME[@VERSION]|DIR")
@click.option("--data", required=True, metavar="URI", help="Labelled images: classes, boxes, masks or keypoints.")
@click.option("--variant", "variants", multiple=True, help="May be given again.  [default: the first]")
@click.option("--provider", default="cpu", show_default=True, help="Execution provider: cpu, cuda, auto, ...")
@image_column_option
@label_column_option
@store_option
@json_option
def evaluate(
    *,
    reference: str,
    data: str,
    variants: tuple[str, ...],
    provider: str,
    store: str | None,
    as_json: bool,
    **columns: Any,
) -> None:
    """Measure how good the answers of a model are; docs/evaluation.md says how labels are given."""
    from controller.lifecycle.evaluation.evaluate import evaluate as measure
    from runtime.datasets import open_dataset
    from runtime.store import ModelStore, resolve_artifact

    artifact = resolve_artifact(reference, ModelStore.open(store))
    dataset = open_dataset(data, **columns)
    wanted = variants or (artifact.manifest.variants[0].id,)
    results = {variant: measure(artifact, variant, dataset, provider) for variant in wanted}
    for note in dict.fromkeys(note for result in results.values() for note in result.notes):
        click.echo(f"note: {note}", err=True)
    first = results[wanted[0]]
    agreements = {variant: result.agreement(first) for variant, result in results.items()}
    value = {
        "model": artifact.manifest.reference,
        "data": data,
        "variants": {variant: _record(result, agreements[variant]) for variant, result in results.items()},
    }
    emit(value, as_json=as_json, text=lambda: _text(results, agreements))


def _record(result: Evaluation, agreement: float) -> dict[str, Any]:
    """Return *result* as JSON values."""
    classes = result.classes
    return {
        "provider": result.provider,
        "images": result.images,
        "skipped": dict(result.skipped),
        "primary": result.primary,
        "metrics": dict(result.metrics),
        "agreement": agreement,
        "classes": {label: dict(zip(classes.columns, values, strict=True)) for label, values in classes.rows}
        if classes
        else {},
        "confusion": _confusion(result.confusion),
        "notes": list(result.notes),
    }


def _confusion(confusion: Confusion | None) -> list[dict[str, Any]]:
    """Return how often what was taken for what, wrong or right, without what never happened."""
    if confusion is None:
        return []
    return [
        {
            "labelled": confusion.labels[row],
            "answered": confusion.labels[column],
            confusion.unit: int(confusion.counts[row, column]),
        }
        for row, column in zip(*confusion.counts.nonzero(), strict=True)
    ]


def _mistakes(confusion: Confusion) -> str:
    """Return what was most often taken for something else, as text."""
    mistakes = confusion.mistakes
    rows = [(one.labelled, one.answered, one.count, f"{one.share:.0%}") for one in mistakes[:MOST_MISTAKES]]
    return table((f"worst of {len(mistakes)} confusions", "taken for", confusion.unit, "of the class"), rows)


def _text(results: Mapping[str, Evaluation], agreements: Mapping[str, float]) -> str:
    from runtime.evaluation.titles import title_of

    first = next(iter(results.values()))
    names = list(first.metrics)
    headers = ("variant", *(title_of(name).name for name in names), *(["as the first"] if len(results) > 1 else []))
    rows = [
        (
            variant,
            *(title_of(name).show(result.metrics.get(name, float("nan"))) for name in names),
            *([f"{agreements[variant]:.2%}"] if len(results) > 1 else []),
        )
        for variant, result in results.items()
    ]
    said = f"{first.images} image{'s' * (first.images != 1)} on {first.provider}"
    confused = [_mistakes(first.confusion)] if first.confusion is not None and first.confusion.mistakes else []
    return "\n\n".join([table(headers, rows), *confused, said])


@click.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: NAME-VERSION.html]")
@click.option("--evaluation", metavar="URI", help="Make it anew, with what is measured on these labelled images.")
@image_column_option
@label_column_option
@store_option
@json_option
def card(
    *, reference: str, out: Path | None, evaluation: str | None, store: str | None, as_json: bool, **columns: Any
) -> None:
    """Write the model card of a version: one HTML file with its figures, classes, examples and provenance.

    It is the card that was made when the version was published. With --evaluation, or where there is none, one is made
    now; what was published stays as it is.
    """
    from controller.lifecycle.card.making import card_of
    from runtime.datasets import open_dataset
    from runtime.files import replace_bytes
    from runtime.store import ModelStore

    dataset = open_dataset(evaluation, **columns) if evaluation is not None else None
    made = card_of(ModelStore.open(store), reference, dataset)
    path = out or Path(f"{made.reference.replace('@', '-')}.html")
    replace_bytes(path, made.html)
    result = {"model": made.reference, "card": str(path), "bytes": len(made.html), "published": made.published}
    how = "as published" if made.published else "made now"
    emit(result, as_json=as_json, text=f"{path}: the card of {made.reference}, {how}, {len(made.html) / 1e3:.0f} kB")


VERBS: Sequence[click.Command] = (evaluate, card)
