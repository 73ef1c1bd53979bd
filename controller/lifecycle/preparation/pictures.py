"""How an import prepares pictures: as the source says, as a person says, or as its maker is known to do.

Rules:
    * A training run knows; nothing else may be said. A model that normalizes itself knows its numbers; a person may
      say the sizes. What a person says counts for an ONNX file, then its metadata. Otherwise the import is refused,
      and the text says what the model looks like.
    * A graph of uint8 NHWC normalizes itself. One of floating point numbers gets the normalization put in
      front of it; any other is fed by the predictor.
"""

from __future__ import annotations

from dataclasses import replace

from controller.lifecycle.admission import no_pictures
from controller.lifecycle.feature_input import FeatureInput, check_features, find_feature_input
from controller.lifecycle.graph import ImageInput, find_image_input
from controller.lifecycle.heads import Facts, recognize
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.preparation.fitting import Suggestion, complete
from controller.lifecycle.preparation.presets import PRESETS
from controller.lifecycle.preparation.suggest import likely_presets, makers_preprocess, sized
from controller.lifecycle.rehearsal import rehearse
from controller.lifecycle.request import ImportRequest
from controller.lifecycle.variants.golden import synthetic_pictures
from controller.lifecycle.variants.reference import can_embed
from runtime.errors import UsageError, VedetteError
from runtime.manifest import Preprocess, Task

__all__ = ["decided_preprocess", "picture_input"]

PROBE_SIZE = 640  # pixels, of a graph that takes any; only to see what it answers with


def picture_input(imported: ImportedModel, source: str) -> ImageInput | FeatureInput:
    """Return the input of *imported* that takes pictures, or can take their features.

    Raises:
        UsageError: There is none.
    """
    found = find_image_input(imported.graph) or find_feature_input(imported.graph)
    if found is None:
        raise no_pictures(imported.graph, source)
    return found


def decided_preprocess(
    request: ImportRequest, imported: ImportedModel, preset: Preprocess | None, facts: Facts, task: Task
) -> tuple[Preprocess, tuple[str, ...]]:
    """Return the complete preprocessing of the model, and notes.

    Args:
        request: What was asked for.
        imported: The source.
        preset: What ``--preprocess`` means.
        facts: What the source's metadata say.
        task: What the model does.

    Raises:
        UsageError: Nothing says how pictures are prepared, or what says so does not fit the graph.
    """
    found = picture_input(imported, request.source)
    notes: list[str] = []
    chosen = _agreed(request.source, imported.preprocess, preset)
    if isinstance(found, FeatureInput):
        return check_features(chosen, found, request.source), ()
    if chosen is not None and chosen.features is not None:
        raise UsageError(
            f"the preprocessing computes features, input {found.tensor} of {request.source} takes pictures"
        )
    if chosen is None or isinstance(chosen, Suggestion) or _says_nothing_of_sizes(chosen):
        found, note = sized(found, facts, task)
        notes += [note] if note else []
    if chosen is None:
        chosen = makers_preprocess(facts, task)
        if chosen is None:
            raise _unprepared(request, imported, found, facts, task)
        notes.append(f"pictures are prepared as {facts.maker} does")
    chosen, note = _embedding(chosen, found, request.source)
    notes += [note] if note else []
    return complete(chosen, found, notes.append), tuple(notes)


def _agreed(source: str, own: Preprocess | None, asked: Preprocess | None) -> Preprocess | None:
    """Return what the source says of its pictures, or what a person says that agrees with it.

    Raises:
        UsageError: They do not agree, or the source knows everything.
    """
    if own is None or asked is None:
        return own or asked
    if not _says_nothing_of_sizes(own):
        raise UsageError(f"{source} says itself how its pictures are prepared; leave --preprocess out")
    if _numbers(asked) != _numbers(own):
        raise UsageError(
            f"{source} normalizes its pictures itself; --preprocess may say their sizes, but its scale, mean, std and "
            f"color must be {own.scale:g}, {_listed(own.mean)}, {_listed(own.std)} and {own.color}"
        )
    return asked


def _numbers(preprocess: Preprocess) -> tuple[object, ...]:
    mean, std = (values * (3 // len(values)) for values in (preprocess.mean, preprocess.std))
    return preprocess.color, preprocess.scale, mean, std


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _says_nothing_of_sizes(preprocess: Preprocess) -> bool:
    return not {"resize", "crop"} & preprocess.model_fields_set


def _embedding(chosen: Preprocess, found: ImageInput, source: str) -> tuple[Preprocess, str | None]:
    """Return *chosen* with what the graph itself says of its normalization, and a note."""
    takes_pixels = found.dtype == "uint8" and found.layout == "NHWC"
    if chosen.embedded and not takes_pixels:
        raise UsageError(
            f"the preprocessing of {source} says 'embedded', but input {found.name!r} is {found.dtype} {found.layout}; "
            "a graph that normalizes itself takes uint8 NHWC"
        )
    if takes_pixels and not chosen.embedded:
        note = "the graph takes uint8 pixels and normalizes itself: mean, std and scale are not applied"
        return chosen.model_copy(update={"embedded": True}), note
    if not takes_pixels and not can_embed(found, chosen):
        return chosen, f"the normalization stays outside the graph: its input is {found.dtype}"
    return chosen, None


def _unprepared(
    request: ImportRequest, imported: ImportedModel, found: ImageInput, facts: Facts, task: Task
) -> UsageError:
    """Return the refusal for want of ``--preprocess``, with what a trial run shows the model to be."""
    needed = f"--preprocess is needed for {request.source}: a file, or one of {', '.join(PRESETS)}"
    height = found.height if isinstance(found.height, int) else PROBE_SIZE
    width = found.width if isinstance(found.width, int) else PROBE_SIZE
    probe, _ = _embedding(PRESETS["unit"], found, request.source)
    try:
        preprocess = complete(probe, replace(found, height=height, width=width))
        evidence = rehearse(imported, found, preprocess, synthetic_pictures(1), facts)
        recognized = recognize(evidence, task, head=request.head)
    except VedetteError:
        return UsageError(needed)
    likely = ", ".join(likely_presets(recognized.postprocess.kind))
    return UsageError(f"{needed} ({recognized.said}{f'; likely: {likely}' if likely else ''})")
