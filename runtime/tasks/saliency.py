"""Saliency and matting: one channel to how much each pixel belongs to the foreground.

Rules:
    * The matte is the output that the manifest names, or the first of shape (N, 1, h, w), (N, h, w, 1) or (N, h, w).
    * `sigmoid` turns logits to shares, `none` takes shares as they are, clipped to 0 to 1; 8 and 16 bit integers are
      shares of their range. Nothing is stretched: rembg and U-2-Net's own script spread each picture's matte from
      its least to its greatest value, which makes a foreground of the likeliest pixel of an empty picture.
    * The part of the matte that shows the picture is resized to it bilinearly (antialiased where it shrinks), since a
      matte has soft edges; what a crop cut away is background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.classification import ACTIVATIONS
from runtime.tasks.outputs import find_output, shares
from runtime.tasks.results import Matte

__all__ = ["HEADS", "decode_saliency"]

Array = npt.NDArray[Any]
Shares = npt.NDArray[np.float32]
ROUNDING = 1e-6  # cells
ONE_CHANNEL = ("sigmoid", "none")  # a softmax of one channel is always 1


def decode_saliency(outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Matte]:
    """Return one `Matte` an image.

    Args:
        outputs: Of the graph; the matte is (N, 1, h, w), (N, h, w, 1) or (N, h, w).
        sizes: (height, width) of the N upright originals.
        manifest: Activation and preprocessing.

    Raises:
        ModelError: No output fits, or the activation is not for one channel.
    """
    activation = manifest.postprocess.activation
    if activation not in ONE_CHANNEL:
        raise ModelError(f"{manifest.reference}: activation {activation!r} of one channel; expected sigmoid or none")
    raw = _matte(outputs, len(sizes), manifest)
    found = shares(raw)
    mattes = found.astype(np.float32)
    if found is raw:
        mattes = ACTIVATIONS[activation](mattes)
    np.clip(mattes, 0, 1, out=mattes)
    return [
        _to_original(matte, Placement.of(manifest.preprocess, *size)) for matte, size in zip(mattes, sizes, strict=True)
    ]


def _matte(outputs: Outputs, images: int, manifest: Manifest) -> Array:
    """Return the mattes of *images* images as (N, h, w) in the graph's own type."""

    def fits(output: Array) -> bool:
        one_channel = output.ndim == 3 or (output.ndim == 4 and 1 in {output.shape[1], output.shape[3]})
        return one_channel and len(output) == images and np.issubdtype(output.dtype, np.number)

    expected = f"({images}, 1, h, w), ({images}, h, w, 1) or ({images}, h, w)"
    _, raw = find_output(outputs, manifest, "matte", fits, expected)
    if raw.ndim == 3:
        return raw
    return raw[:, 0] if raw.shape[1] == 1 else raw[..., 0]


@dataclass(frozen=True, slots=True)
class _Span:
    """What of a picture a matte shows, along one axis.

    Attributes:
        first: Pixel of the original, the first whose middle lies in the model's input.
        end: The one after the last.
        start: Where the first begins on the matte, in cells.
        stop: Where the last ends.
    """

    first: int
    end: int
    start: float
    stop: float

    @classmethod
    def of(cls, offset: int, resized: int, length: int, input_length: int, cells: int) -> Self:
        """Return that of an original of *length* pixels that became *resized*, at *offset* of the input."""
        scale = resized / length
        first = max(0, math.ceil(-offset / scale - 0.5))
        end = min(length, math.ceil((input_length - offset) / scale - 0.5))
        start, stop = ((edge * scale + offset) * cells / input_length for edge in (first, end))
        return cls(first, end, max(0.0, start), min(float(cells), stop))

    @property
    def cells(self) -> slice:
        """The cells that show a part of the picture; what fills a letterbox must not bleed into it."""
        return slice(math.floor(self.start + ROUNDING), math.ceil(self.stop - ROUNDING))


def _to_original(matte: Shares, placed: Placement) -> Matte:
    """Return *matte* (h, w), which covers the model's input, as that of the upright original."""
    down = _Span.of(placed.top, placed.resized_height, placed.height, placed.input_height, matte.shape[0])
    across = _Span.of(placed.left, placed.resized_width, placed.width, placed.input_width, matte.shape[1])
    mask = np.zeros((placed.height, placed.width), np.uint8)
    if down.first < down.end and across.first < across.end:
        shown = matte[down.cells, across.cells]
        top, left = down.cells.start, across.cells.start
        box = (
            max(0.0, across.start - left),
            max(0.0, down.start - top),
            min(float(shown.shape[1]), across.stop - left),
            min(float(shown.shape[0]), down.stop - top),
        )
        size = (across.end - across.first, down.end - down.first)
        resized = Image.fromarray(shown).resize(size, Image.Resampling.BILINEAR, box=box)
        mask[down.first : down.end, across.first : across.end] = np.rint(np.asarray(resized) * 255)
    return Matte(mask=mask, coverage=float(mask.mean() / 255))


HEADS: Mapping[str, Head] = {
    "saliency": Head(
        task="segmentation",
        result=Matte,
        decode=decode_saliency,
        what="matte (N, 1, h, w), (N, h, w, 1) or (N, h, w)",
    ),
}
