"""`vedette predict`: what a model says of pictures.

Rules:
    * Pictures are read and answered one by one, in the order given; a directory stands for the pictures in it.
    * A bad picture among several has its error in its place; the others are answered. The exit code is 1 then.
    * What was asked for and cannot be had is refused before the first picture is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.terminal import emit, json_option, progress, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.drawing.album import Album
    from runtime.errors import ImageError
    from runtime.manifest import Manifest, Postprocess
    from runtime.predictor import Predictor
    from runtime.tasks import Prediction

__all__ = ["predict"]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of one picture: a prediction, or an error.

    Attributes:
        path: Of the picture.
        facts: How it was answered: model, variant, provider and why not a better one, decoder, files written.
        prediction: What the model says.
        error: Why it says nothing.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    prediction: Prediction | None = None
    error: ImageError | None = None

    def as_json(self) -> dict[str, Any]:
        from runtime.tasks.records import as_json, record_of

        document = {"image": str(self.path), **self.facts}
        if self.prediction is not None:
            document |= as_json(record_of(self.prediction))
        if self.error is not None:
            document["error"] = {"reason": self.error.reason, "detail": self.error.detail}
        return document


@click.command()
@click.option("--model", "reference", required=True, help="NAME, NAME@VERSION, or the path of an artifact.")
@click.argument("image", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--provider", default="auto", show_default=True, help="auto, cpu, cuda, ...: a name is strict.")
@click.option(
    "--score-threshold", type=click.FloatRange(0, 1), help="Least score of an answer [default: the model's own]."
)
@click.option(
    "--iou-threshold",
    type=click.FloatRange(0, 1),
    help="Of two boxes of a class that overlap more, the less sure goes [default: the model's own].",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Classes to name of an image [default: the model's own].")
@click.option("--allow-truncated", is_flag=True, help="Take what is there of a picture that ends early.")
@click.option(
    "--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Draw the answers on the pictures."
)
@click.option("--store", help="The artifact store; the default one if absent.")
@json_option
def predict(  # noqa: PLR0913 - the options of the command, one to one
    *,
    reference: str,
    image: tuple[Path, ...],
    provider: str,
    score_threshold: float | None,
    iou_threshold: float | None,
    top_k: int | None,
    allow_truncated: bool,
    save: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Say what is on each IMAGE: a file, or a directory of them."""
    from runtime.commands.pictures import find_pictures
    from runtime.predictor import Predictor
    from runtime.store import ModelStore, resolve_artifact

    paths = find_pictures(image)
    artifact = resolve_artifact(reference, ModelStore.open(store) if store else None)
    given = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "top_k": top_k}
    changes = {name: value for name, value in given.items() if value is not None}
    postprocess = artifact.manifest.postprocess.changed(**changes)
    album = _open_album(save, paths, artifact.manifest, postprocess) if save else None
    predictor = Predictor(artifact, provider=provider)
    asking = _Asking(predictor=predictor, allow_truncated=allow_truncated, changes=changes, album=album)
    answers = []
    with progress(len(paths), "predict", "images") as bar:
        for path in paths:
            answers.append(asking.answer(path))
            bar.advance()
    emit([one.as_json() for one in answers], as_json=as_json, text=lambda: _text(answers))
    _raise_for([one.error for one in answers if one.error is not None], len(answers))


def _open_album(directory: Path, paths: Sequence[Path], manifest: Manifest, postprocess: Postprocess) -> Album:
    """Return what draws the model's answers into *directory*.

    Raises:
        UsageError: There is nothing to see of what it answers.
    """
    from runtime.drawing import DRAWERS
    from runtime.drawing.album import Album
    from runtime.errors import UsageError
    from runtime.tasks import head_of

    if head_of(manifest).result not in DRAWERS:
        raise UsageError(f"--save: {manifest.reference} does {manifest.task}, of which nothing can be drawn")
    return Album(directory, paths, postprocess)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """Asks one model about pictures, one by one.

    Attributes:
        predictor: The model.
        allow_truncated: Whether a picture that ends early is taken.
        changes: Of its postprocessing, for this call.
        album: Takes the drawn pictures, if they are wanted.
    """

    predictor: Predictor
    allow_truncated: bool
    changes: Mapping[str, Any]
    album: Album | None

    def answer(self, path: Path) -> _Answer:
        """Return what the model says of the picture at *path*, or why it says nothing."""
        from runtime.errors import ImageError

        facts: dict[str, Any] = {
            "model": self.predictor.artifact.manifest.reference,
            "variant": self.predictor.variant.id,
            "provider": self.predictor.provider,
        }
        if self.predictor.fallback is not None:
            facts["fallback"] = self.predictor.fallback
        try:
            picture = self.predictor.load(path, allow_truncated=self.allow_truncated)
            (prediction,) = self.predictor.predict([picture.pixels], **self.changes)
        except ImageError as error:
            return _Answer(path, facts, error=error)
        facts["decoder"] = picture.decoder
        if picture.truncated:
            facts["truncated"] = True
        if self.album is not None:
            facts["saved"] = [str(file) for file in self.album.add(path, picture.pixels, prediction)]
        return _Answer(path, facts, prediction)


def _text(answers: Sequence[_Answer]) -> str:
    """Return *answers* for people: a table of the predictions, and one of the pictures without."""
    from runtime.tasks.tables import TABLES, table_rows

    said = [(one.path, one.prediction) for one in answers if one.prediction is not None]
    parts = []
    if said:
        headers = ("image", *TABLES[type(said[0][1])].headers)
        parts.append(table(headers, [(path, *row) for path, prediction in said for row in table_rows(prediction)]))
    if bad := [(one.path, one.error.reason, one.error.detail) for one in answers if one.error is not None]:
        parts.append(table(("not answered", "reason", "detail"), bad))
    if files := [file for one in answers for file in one.facts.get("saved", ())]:
        parts.append(table(("saved",), [(file,) for file in files]))
    if fallback := answers[0].facts.get("fallback"):
        parts.append(f"ran on {answers[0].facts['provider']}: {fallback}")
    return "\n\n".join(parts)


def _raise_for(errors: Sequence[ImageError], pictures: int) -> None:
    """Raise if there are *errors*: the only one itself, or what several have in common."""
    from runtime.errors import VedetteError

    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise VedetteError(f"{len(errors)} of {pictures} images could not be used; the first: {errors[0]}")
