"""Preprocessing made to fit a graph: its size, and the numbers that it takes.

Rules:
    * What a person wrote for this very model is taken as it stands, or refused.
    * A `Suggestion` is meant for a family of models: its sizes yield to those of the graph, a classifier's
      share of the picture (crop / resize) stays, and it is said what became of it.
    * Where nothing says a size, pictures are resized to the graph's, whatever their aspect ratio.
    * An input of integers must be able to hold the values that pixels become.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from pydantic import Field

from controller.lifecycle.graph import ImageInput
from runtime.errors import UsageError
from runtime.manifest import Preprocess, Resize
from runtime.preprocess import normalize

__all__ = ["Say", "Suggestion", "complete", "size_after"]

Say = Callable[[str], object]
"""Takes a note for the person who imports."""

SIGNED_OFFSET = 128  # from a pixel to the int8 that stands for it
LEAST_STEPS = 64  # integers from black to white; with fewer, a picture is not worth looking at

Size = tuple[int, int]


class Suggestion(Preprocess):
    """What a family of models is prepared with; its sizes yield to those of the graph.

    Attributes:
        crop_pct: Which part of the resized picture the crop keeps, where that says more than ``crop`` and
            ``resize``, which are rounded.
    """

    crop_pct: float | None = Field(default=None, gt=0, exclude=True)

    def fitted(self, size: Size) -> Suggestion:
        """Return this for pictures that must end with *size* (height, width)."""
        resize, crop = self.resize, self.crop
        if resize is None:
            return self.model_copy(update={"crop": size})
        if crop is None:
            mode = "exact" if resize.mode == "shortest-edge" else resize.mode
            return self.model_copy(update={"resize": resize.model_copy(update={"mode": mode, "size": size})})
        if resize.mode == "shortest-edge":
            share = self.crop_pct or max(crop) / _both(resize.size)[0]
            before: int | Size = math.floor(max(size) / share)
        else:
            edges = zip(_both(resize.size), size, crop, strict=True)
            height, width = (edge * wanted // cropped for edge, wanted, cropped in edges)
            before = (height, width)
        return self.model_copy(update={"resize": resize.model_copy(update={"size": before}), "crop": size})

    def described(self) -> str:
        """Return the sizes for people: ``shortest-edge 256, crop 224x224``."""
        steps = []
        if self.resize is not None:
            size = self.resize.size
            steps.append(f"{self.resize.mode} {size if isinstance(size, int) else _times(size)}")
        if self.crop is not None:
            steps.append(f"crop {_times(self.crop)}")
        return ", ".join(steps)

    def plain(self) -> Preprocess:
        """Return this as it stands in a manifest."""
        return Preprocess.model_validate(self.model_dump())


def complete(preprocess: Preprocess, found: ImageInput, say: Say = lambda _: None) -> Preprocess:
    """Return *preprocess* as the graph needs it.

    Args:
        preprocess: A `Suggestion`, or what was written for this model.
        found: The graph's input.
        say: Is told what a suggestion became.

    Raises:
        UsageError: It leads to other channels or another size than the graph takes, to none where the graph takes
            any, or to values that the input cannot hold.
    """
    _check_channels(preprocess, found)
    fitting = _in_size(preprocess, found, say)
    if isinstance(fitting, Suggestion):
        fitting = _in_range(fitting, found, say).plain()
    _check_range(fitting, found)
    return fitting


def _check_channels(preprocess: Preprocess, found: ImageInput) -> None:
    channels = 1 if preprocess.color == "L" else 3
    if found.channels != channels:
        wanted = "L" if found.channels == 1 else "RGB"
        raise UsageError(
            f"the preprocessing leads to pictures of color {preprocess.color}, input {found.name!r} takes "
            f"{found.channels} channel{'s' if found.channels > 1 else ''}; give --preprocess FILE with color {wanted!r}"
        )


def _in_size(preprocess: Preprocess, found: ImageInput, say: Say) -> Preprocess:
    """Return *preprocess* with sizes that lead to the graph's."""
    wanted = (found.height, found.width)
    if preprocess.resize is None and preprocess.crop is None:
        return _resized_to_graph(preprocess, found)
    leads_to = size_after(preprocess)
    misses = any(isinstance(edge, int) and edge != ours for edge, ours in zip(wanted, leads_to, strict=True))
    if not misses:
        return preprocess
    height, width = (edge if isinstance(edge, int) else ours for edge, ours in zip(wanted, leads_to, strict=True))
    if not isinstance(preprocess, Suggestion) or height is None or width is None:
        ours = " x ".join(str(edge or "any") for edge in leads_to)
        raise UsageError(
            f"the preprocessing leads to {ours} pixels (height x width), input {found.name!r} takes "
            f"{found.height} x {found.width}; give --preprocess FILE with resize and crop to match"
        )
    fitted = preprocess.fitted((height, width))
    say(f"input {found.name!r} takes {height}x{width} pixels: {fitted.described()}, not {preprocess.described()}")
    return fitted


def _resized_to_graph(preprocess: Preprocess, found: ImageInput) -> Preprocess:
    """Return *preprocess*, which names no size, with the graph's; as it is where it says outright that it has none."""
    height, width = found.height, found.width
    if isinstance(height, int) and isinstance(width, int):
        return preprocess.model_copy(update={"resize": Resize(mode="exact", size=(height, width))})
    if "resize" in preprocess.model_fields_set and not isinstance(preprocess, Suggestion):
        return preprocess
    raise UsageError(
        f"input {found.name!r} takes pictures of any size ({height} x {width}), and the preprocessing says none; give "
        '--preprocess FILE with resize or crop, or with "resize": null to take pictures as large as they are'
    )


def _both(size: int | Size) -> Size:
    return size if isinstance(size, tuple) else (size, size)


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def size_after(preprocess: Preprocess) -> tuple[int | None, int | None]:
    """Return the (height, width) that every picture ends with; ``None`` where it depends on the picture."""
    return preprocess.size or (None, None)


def _in_range(suggestion: Suggestion, found: ImageInput, say: Say) -> Suggestion:
    """Return *suggestion* with pixels as they are moved to where an int8 input has them."""
    as_they_are = suggestion.scale == 1 and set(suggestion.mean) == {0.0} and set(suggestion.std) == {1.0}
    if found.dtype != "int8" or not as_they_are or suggestion.embedded:
        return suggestion
    say(f"input {found.name!r} is int8: pixels go in as pixel - {SIGNED_OFFSET}")
    return suggestion.model_copy(update={"mean": (float(SIGNED_OFFSET),) * len(suggestion.mean)})


def _check_range(preprocess: Preprocess, found: ImageInput) -> None:
    """See that an input of integers holds what pixels become.

    Raises:
        UsageError: It does not, or nearly all pixels become the same few integers.
    """
    dtype = np.dtype(found.dtype)
    if preprocess.embedded or not np.issubdtype(dtype, np.integer):
        return
    ends = normalize(np.repeat(np.array([[0], [255]], np.uint8), len(preprocess.mean), axis=1), preprocess)
    low, high, bounds = float(ends.min()), float(ends.max()), np.iinfo(dtype)
    become = f"the preprocessing makes pixels to values from {low:.4g} to {high:.4g}"
    if low < bounds.min - 0.5 or high > bounds.max + 0.5:
        raise UsageError(
            f"{become}, input {found.name!r} is {found.dtype} ({bounds.min} to {bounds.max}); "
            "give --preprocess FILE with the scale, mean and std that it was quantized with"
        )
    if high - low < LEAST_STEPS:
        raise UsageError(
            f"{become}, which input {found.name!r}, being {found.dtype}, would get rounded to whole numbers; "
            "give --preprocess FILE with the scale, mean and std that it was quantized with"
        )
