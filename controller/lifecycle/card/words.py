"""What happens to a picture before and after the graph, in words with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runtime.manifest import Manifest, Postprocess
from runtime.recipe import Hog, Preprocess, Resize

__all__ = ["BY", "answer_steps", "input_steps"]

SUPPRESSING = ("yolov8", "yolov5", "yolox", "ssd", "yolov8-seg", "yolov5-seg", "yolov8-pose")
"""Heads whose boxes go through non-maximum suppression."""
BY = "\N{MULTIPLICATION SIGN}"
COLORS: Mapping[str, str] = {
    "RGB": "in the order red, green, blue",
    "BGR": "in the order blue, green, red",
    "L": "as shades of grey",
}


def input_steps(preprocess: Preprocess) -> list[str]:
    """Return what is done to a picture, one step a sentence."""
    steps = ["The picture is decoded, turned upright by its EXIF orientation, and brought to 8-bit RGB."]
    if preprocess.background != (255, 255, 255):
        steps.append(f"Transparent pixels are put on the colour {_listed(preprocess.background)}.")
    if preprocess.resize is not None:
        steps.append(_resize(preprocess.resize))
    if preprocess.crop is not None:
        height, width = preprocess.crop
        steps.append(f"The middle {width} {BY} {height} pixels are cut out.")
    if preprocess.resize is None and preprocess.crop is None:
        steps.append("It keeps its size.")
    steps.append(_normalization(preprocess))
    if preprocess.features is not None:
        steps.append(_features(preprocess.features))
    where = "inside the graph, which takes uint8 pixels" if preprocess.embedded else "before the graph"
    steps.append(f"The arithmetic is done {where}.")
    return steps


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _resize(resize: Resize) -> str:
    height, width = resize.size if isinstance(resize.size, tuple) else (resize.size, resize.size)
    how = f"{resize.interpolation}{', antialiased' if resize.antialias else ''}"
    if resize.mode == "shortest-edge":
        return f"Its shorter side becomes {height} pixels, the other one keeps the aspect ratio ({how})."
    if resize.mode == "exact":
        return f"It becomes {width} {BY} {height} pixels, whatever its aspect ratio ({how})."
    place = "in the middle" if resize.anchor == "center" else "at the upper left"
    return (
        f"It is scaled as large as fits into {width} {BY} {height} pixels ({how}) and lies {place}; the rest is grey "
        f"{resize.pad}."
    )


def _normalization(preprocess: Preprocess) -> str:
    plain = set(preprocess.mean) == {0.0} and set(preprocess.std) == {1.0}
    shown = f"Pixels are taken {COLORS[preprocess.color]}"
    if plain and preprocess.scale == 1:
        return f"{shown}, as numbers from 0 to 255."
    scaled = f"1/{1 / preprocess.scale:g}" if 0 < preprocess.scale < 1 else f"{preprocess.scale:g}"
    if plain:
        return f"{shown}, each times {scaled}."
    mean, std = _listed(preprocess.mean), _listed(preprocess.std)
    return f"{shown}; each becomes (pixel {BY} {scaled} - mean) / std, mean {mean}, std {std}."


def _features(hog: Hog) -> str:
    cell, block = (BY.join(map(str, size)) for size in (hog.pixels_per_cell, hog.cells_per_block))
    return (
        f"Histograms of oriented gradients are computed: {hog.orientations} directions, cells of {cell} pixels, blocks "
        f"of {block} cells, normalized by {hog.block_norm}."
    )


def _thresholds(manifest: Manifest) -> list[str]:
    post = manifest.postprocess
    steps = [f"Answers with a score of {post.score_threshold:g} or more count, {post.max_detections} at most."]
    if post.kind in SUPPRESSING:
        steps.append(f"A box that overlaps a surer one of its class by {post.iou_threshold:g} is left out.")
    return steps


def _classes(manifest: Manifest) -> list[str]:
    post = manifest.postprocess
    if post.multi_label:
        return [f"Every class with a score of {post.score_threshold:g} or more is an answer."]
    return [f"The best {post.top_k} classes are the answer." if post.top_k > 1 else "The best class is the answer."]


def _bodies(manifest: Manifest) -> list[str]:
    names = manifest.postprocess.keypoints
    return [*_thresholds(manifest), f"A body has {len(names)} keypoints: {', '.join(names)}."]


ANSWERS: Mapping[str, Callable[[Manifest], list[str]]] = {
    "classification": _classes,
    "detection": _thresholds,
    "pose": _bodies,
    "segmentation": lambda manifest: _thresholds(manifest) if manifest.postprocess.kind.endswith("-seg") else [],
    "embedding": lambda _: ["The vector is brought to length 1."],
}
"""What follows the outputs, by task."""


def answer_steps(manifest: Manifest) -> list[str]:
    """Return how the graph's outputs become answers, one step a sentence."""
    return [_head(manifest.postprocess), *ANSWERS[manifest.task](manifest)]


def _head(post: Postprocess) -> str:
    bound = ", ".join(f"{role} from {output}" for role, output in post.outputs.items())
    made = "" if post.activation == "none" else f"; a {post.activation} makes probabilities of the scores"
    return f"The outputs are read as those of the head {post.kind}{f' ({bound})' if bound else ''}{made}."
