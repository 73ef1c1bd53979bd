"""Where a picture lies in the model's input: the geometry of preprocessing, and the way back.

Rules:
    * Pure arithmetic: `runtime.preprocess` moves pixels as a `Placement` says, `runtime.tasks` undo it.
    * Coordinates are continuous: (0, 0) is the upper left corner of the upper left pixel, so that an edge
      at x of the picture lies at ``x * scale_x + left`` of the input, whatever filter resized it.
    * A letterbox has one scale for both axes, the one that fits before the size is rounded to whole pixels:
      by it YOLO models learned where their boxes are, and Ultralytics' and YOLOX's own code takes them back.
    * Sizes round as the training code does. torchvision's `resize` and `center_crop`: the long side is truncated,
      a crop's offset rounded to even. Ultralytics' `LetterBox`: a letterbox's size is rounded; in the middle, the
      smaller half of an odd margin is above and to the left. (YOLOX's `preproc`, at the top left, truncates the
      size: its picture may end a row or a column earlier.)
    * A picture is at least one pixel high and wide, however extreme its aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from runtime.manifest import Preprocess, Resize

__all__ = ["Placement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One picture in the model's input.

    Attributes:
        height: Of the upright original, pixels.
        width: As above.
        resized_height: Of the whole picture after the resize and before the crop, pixels.
        resized_width: As above.
        input_height: Of the model's input, pixels.
        input_width: As above.
        top: Row of the input where the picture's upper edge lies; negative: the crop cuts so much off.
        left: As above, column.
        scale_y: Pixels of the input a pixel of the original, from top to bottom.
        scale_x: As above, from left to right.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    input_height: int
    input_width: int
    top: int
    left: int
    scale_y: float
    scale_x: float

    @classmethod
    def of(cls, preprocess: Preprocess, height: int, width: int) -> Self:
        """Return where *preprocess* puts a picture of *height* and *width* pixels."""
        resize, crop = preprocess.resize, preprocess.crop
        resized = _resized(resize, height, width)
        canvas, top, left = resized, 0, 0
        scale_y, scale_x = resized[0] / height, resized[1] / width
        if resize is not None and resize.mode == "letterbox":
            canvas = _both(resize.size)
            scale_y = scale_x = _fitting(canvas, height, width)
            if resize.anchor == "center":
                top, left = (canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2
        if crop is not None:
            top += _crop_offset(canvas[0], crop[0])
            left += _crop_offset(canvas[1], crop[1])
            canvas = crop
        return cls(
            height=height,
            width=width,
            resized_height=resized[0],
            resized_width=resized[1],
            input_height=canvas[0],
            input_width=canvas[1],
            top=top,
            left=left,
            scale_y=scale_y,
            scale_x=scale_x,
        )

    def points_to_original(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return *points* of the input, (..., 2) as x, y in pixels, as points of the upright original; not clipped."""
        offset, scale = np.array([self.left, self.top], np.float64), np.array([self.scale_x, self.scale_y])
        moved: npt.NDArray[np.float64] = (np.asarray(points, np.float64) - offset) / scale
        return moved

    def points_to_input(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return *points* of the upright original, (..., 2) as x, y in pixels, as points of the input; not clipped."""
        offset, scale = np.array([self.left, self.top], np.float64), np.array([self.scale_x, self.scale_y])
        moved: npt.NDArray[np.float64] = np.asarray(points, np.float64) * scale + offset
        return moved

    def boxes_to_original(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return *boxes* of the input, (n, 4) as x1, y1, x2, y2 in pixels, as boxes of the original, clipped to it."""
        corners = self.points_to_original(np.asarray(boxes).reshape(-1, 2, 2))
        return np.clip(corners, 0, [self.width, self.height]).reshape(-1, 4)


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _resized(resize: Resize | None, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that *resize* brings the whole picture to."""
    if resize is None:
        return height, width
    if resize.mode == "exact":
        return _both(resize.size)
    if resize.mode == "letterbox":
        scale = _fitting(_both(resize.size), height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    short = resize.size if isinstance(resize.size, int) else min(resize.size)
    if height <= width:
        return short, max(1, int(short * width / height))
    return max(1, int(short * height / width)), short


def _fitting(box: tuple[int, int], height: int, width: int) -> float:
    """Return the scale at which a picture just fits into *box* (height, width)."""
    return min(box[0] / height, box[1] / width)


def _crop_offset(size: int, crop: int) -> int:
    """Return where the first row of the picture lies in the crop: at 0 or above it, or below if it is smaller."""
    if size < crop:
        return (crop - size) // 2
    return -round((size - crop) / 2.0)
