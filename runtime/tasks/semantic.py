"""Semantic segmentation: the class of each pixel.

Rules:
    * The output is the one that the manifest names ``scores``, or the first that fits: scores (N, C, h, w) or
      (N, h, w, C), or one channel, (N, 1, h, w), (N, h, w, 1) or (N, h, w).
    * Which of the two layouts scores have is told by the number of labels; where both or neither fit it, the smaller of
      the two dimensions is the classes.
    * Of several channels the greatest is the class. `sigmoid` channels stand for themselves alone: where none reaches
      ``score_threshold`` the pixel is of ``none_label``, or of label 0 where the labels have one more entry than the
      output has channels and the first is the background; without either it is of its best class all the same.
    * One channel of integers, or of whole numbers in floats, holds the classes' ids. Other floats are how much the
      pixel is foreground, logits with `sigmoid`, shares with `none`: at or above ``score_threshold`` it is of class 1,
      otherwise of class 0.
    * Classes are resized to the upright original by the nearest neighbour, pixel centre to pixel centre, as the pixels
      were resized (a box's scale of a letterbox is another one, by less than a pixel); what a crop cut away is
      ``none_label``, or 0.
    * An id without a label is called ``class_<id>``: some models mark pixels to ignore with 255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.classification import ACTIVATIONS
from runtime.tasks.outputs import find_output, shares
from runtime.tasks.results import ClassPixels, Segmentation

__all__ = ["HEADS", "decode_semantic"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.unsignedinteger]
MOST_CLASSES = 1 << 16  # what uint16 holds


def decode_semantic(outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Segmentation]:
    """Return one `Segmentation` an image.

    Args:
        outputs: Of the graph; see the module's rules.
        sizes: (height, width) of the N upright originals.
        manifest: Labels, activation, ``score_threshold``, ``none_label`` and preprocessing.

    Raises:
        ModelError: No output fits, the number of labels does not, or an id is no class.
    """
    maps, labels = _channels(outputs, len(sizes), manifest)
    classify = _of_one_channel if maps.shape[1] == 1 else _of_channels
    return [
        _to_original(classify(one, manifest), Placement.of(manifest.preprocess, *size), labels, manifest)
        for one, size in zip(maps, sizes, strict=True)
    ]


def _channels(outputs: Outputs, images: int, manifest: Manifest) -> tuple[Array, tuple[str, ...]]:
    """Return the output as (N, C, h, w), in the graph's own type, and the labels of the classes that come of it."""

    def fits(output: Array) -> bool:
        return output.ndim in {3, 4} and len(output) == images and np.issubdtype(output.dtype, np.number)

    expected = f"({images}, classes, h, w), ({images}, h, w, classes) or ids ({images}, h, w)"
    name, raw = find_output(outputs, manifest, "scores", fits, expected)
    labels = manifest.labels
    if raw.ndim == 3:
        maps = raw[:, None]
    else:
        maps = raw if _channel_axis(raw.shape, len(labels)) == 1 else np.moveaxis(raw, 3, 1)
    count = maps.shape[1]
    if count == 1:
        return maps, ("background", *labels) if len(labels) == 1 else labels
    if labels and len(labels) != count + _has_background_beside(count, manifest):
        raise ModelError(
            f"{manifest.reference}: {count} classes in the output {name!r} {list(raw.shape)}, {len(labels)} labels"
        )
    return maps, labels or tuple(f"class_{index}" for index in range(count))


def _channel_axis(shape: tuple[int, ...], labels: int) -> int:
    """Return which axis of *shape*, 1 or 3, is the classes."""
    for count in (1, labels, labels - 1):
        first, last = shape[1] == count, shape[3] == count
        if first != last:
            return 1 if first else 3
    return 1 if shape[1] <= shape[3] else 3


def _has_background_beside(channels: int, manifest: Manifest) -> bool:
    """Whether label 0 is what none of the *channels* stands for."""
    return len(manifest.labels) == channels + 1 and manifest.postprocess.activation != "softmax"


def _of_channels(scores: Array, manifest: Manifest) -> npt.NDArray[np.int64]:
    """Return the class of each pixel, (h, w), of *scores* (C, h, w)."""
    beside = _has_background_beside(len(scores), manifest)
    ids: npt.NDArray[np.int64] = scores.argmax(axis=0) + int(beside)
    nothing = manifest.postprocess.none_label if manifest.postprocess.activation == "sigmoid" else None
    if beside:
        nothing = 0
    if nothing is not None:
        ids[~_reaches_threshold(scores.max(axis=0), manifest)] = nothing
    return ids


def _of_one_channel(channel: Array, manifest: Manifest) -> npt.NDArray[np.int64]:
    """Return the class of each pixel, (h, w), of *channel* (1, h, w)."""
    values = channel[0]
    activation = manifest.postprocess.activation
    floating = np.issubdtype(values.dtype, np.floating)
    if not floating or (activation != "sigmoid" and np.array_equal(values, np.rint(values))):
        least, greatest = float(values.min(initial=0)), float(values.max(initial=0))
        if least < 0 or greatest >= MOST_CLASSES:
            found = f"{least:g} to {greatest:g}"
            raise ModelError(f"{manifest.reference}: class ids from {found}; expected 0 to {MOST_CLASSES - 1}")
        return np.asarray(values, dtype=np.int64)
    if activation == "softmax":
        raise ModelError(f"{manifest.reference}: activation 'softmax' of one channel; expected sigmoid or none")
    return _reaches_threshold(values, manifest).astype(np.int64)


def _reaches_threshold(values: Array, manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Return where *values* are at or above the threshold, once activated."""
    found = shares(values)
    if found is values:
        found = ACTIVATIONS[manifest.postprocess.activation](values.astype(np.float32))
    return np.asarray(found >= manifest.postprocess.score_threshold)


def _to_original(
    ids: npt.NDArray[np.int64], placed: Placement, labels: Sequence[str], manifest: Manifest
) -> Segmentation:
    """Return *ids* (h, w), which cover the model's input, as those of the upright original."""
    outside = manifest.postprocess.none_label or 0
    rows = _nearest(placed.top, placed.resized_height / placed.height, placed.height, placed.input_height, ids.shape[0])
    columns = _nearest(placed.left, placed.resized_width / placed.width, placed.width, placed.input_width, ids.shape[1])
    largest = max(int(ids.max(initial=0)), outside, len(labels) - 1)
    mask: Ids = ids.astype(np.uint8 if largest < 256 else np.uint16)[rows.clip(0)].take(columns.clip(0), axis=1)
    mask[rows < 0] = outside
    mask[:, columns < 0] = outside
    pixels = np.bincount(mask.ravel())
    present = sorted(np.flatnonzero(pixels).tolist(), key=lambda one: (-pixels[one], one))
    names = [labels[one] if one < len(labels) else f"class_{one}" for one in present]
    classes = (ClassPixels(one, name, int(pixels[one])) for one, name in zip(present, names, strict=True))
    return Segmentation(mask=mask, classes=tuple(classes))


def _nearest(offset: int, scale: float, length: int, input_length: int, cells: int) -> npt.NDArray[np.intp]:
    """Return which of the *cells* across the model's input shows the middle of each of *length* pixels; -1: none."""
    middles = (np.arange(length) + 0.5) * scale + offset
    found = np.floor(middles * (cells / input_length)).astype(np.intp)
    found[(middles < 0) | (middles >= input_length)] = -1
    return np.asarray(np.minimum(found, cells - 1))


HEADS: Mapping[str, Head] = {
    "semantic": Head(
        task="segmentation",
        result=Segmentation,
        decode=decode_semantic,
        what="scores (N, classes, h, w) or (N, h, w, classes), or class ids (N, h, w)",
    ),
}
