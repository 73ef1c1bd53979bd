"""A picture to draw on: boxes, masks, points and readable text, in the coordinates of the picture.

Rules:
    * A picture that is too small for text is enlarged by a whole factor first, each pixel to a square.
    * Text stands on a ground of one colour, in black or white, whichever has more contrast to it (WCAG 2.2); it stays
      within the picture, and is cut with an ellipsis where it is wider.
    * Lines have a rim, so that they are seen on a ground of their own colour.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from runtime.errors import VedetteError
from runtime.palette import Color

__all__ = ["Canvas", "contrast", "text_color"]

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2
Point = tuple[float, float]  # x, y

LONGEST_AT_LEAST = 320  # pixels; of what is drawn on
SHORTEST_AT_LEAST = 96
LONGEST_AT_MOST = 4096  # of what is enlarged
FONT_AT_LEAST = 14  # pixels
LONGEST_TEXT = 400  # characters
TINT = 0.45  # share of a mask's colour
DIMMED = 0.25  # share of a pixel's light that is left in the background
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)


def _luminance(color: Color) -> float:
    """Return the relative luminance of *color*, 0 to 1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (level / 255 for level in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Color, other: Color) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2; 4.5 is what text needs)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def text_color(ground: Color) -> Color:
    """Return black or white, whichever has more contrast to *ground*."""
    return max((BLACK, WHITE), key=lambda color: contrast(color, ground))


def _enlargement(height: int, width: int) -> int:
    longest, shortest = max(height, width), min(height, width)
    wanted = max(math.ceil(LONGEST_AT_LEAST / longest), math.ceil(SHORTEST_AT_LEAST / shortest))
    return max(1, min(wanted, LONGEST_AT_MOST // longest))


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, *size* pixels high.

    Raises:
        VedetteError: This Pillow was built without FreeType, and has only a bitmap font of one size.
    """
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise VedetteError("Pillow was built without FreeType and cannot write; install Pillow's own wheel")
    return font


class Canvas:
    """A copy of a picture that is drawn on.

    Args:
        picture: uint8, (H, W, 3), RGB.
    """

    def __init__(self, picture: Pixels) -> None:
        self._factor = _enlargement(picture.shape[0], picture.shape[1])
        self._pixels = self._enlarged(picture)
        self._height, self._width = self._pixels.shape[:2]
        size = math.sqrt(self._height * self._width)
        self._thickness = max(1, round(size / 300))
        self._font = _font(max(FONT_AT_LEAST, round(size / 40)))
        self._texts: list[tuple[str, tuple[int, int], Color]] = []  # text, (left, top), ground

    def finish(self) -> Pixels:
        """Write the texts over everything else, and return what was drawn."""
        image = Image.fromarray(self._pixels)
        pen = ImageDraw.Draw(image)
        for text, (left, top), ground in self._texts:
            width, height = self._extent(text)
            pen.rectangle((left, top, left + width - 1, top + height - 1), fill=ground)
            pen.text((left + width / 2, top + height / 2), text, fill=text_color(ground), font=self._font, anchor="mm")
        return np.asarray(image)

    def box(self, box: Box, color: Color) -> None:
        """Draw the outline of *box*."""
        x1, y1, x2, y2 = (round(value * self._factor) for value in box)
        last = self._width - 1, self._height - 1
        corners = (min(x1, last[0]), min(y1, last[1])), (min(x2, last[0]), min(y2, last[1]))
        for shade, rim in self._rims(color):
            cv2.rectangle(self._pixels, *corners, shade, self._thickness + rim)

    def line(self, one: Point, other: Point, color: Color) -> None:
        """Draw a line between two points."""
        ends = self._place(one), self._place(other)
        for shade, rim in self._rims(color):
            cv2.line(self._pixels, *ends, shade, self._thickness + rim, cv2.LINE_AA)

    def point(self, point: Point, color: Color) -> None:
        """Draw a dot at *point*."""
        for shade, rim in self._rims(color):
            cv2.circle(self._pixels, self._place(point), 2 * self._thickness + rim, shade, cv2.FILLED, cv2.LINE_AA)

    def tint(
        self, mask: npt.NDArray[np.bool_], color: Color, *, left: int = 0, top: int = 0, outlined: bool = False
    ) -> None:
        """Lay *color* over the pixels where *mask* is true.

        Args:
            mask: bool, (h, w).
            color: Of the mask.
            left: Column of the picture where the mask begins.
            top: Row of the picture where the mask begins.
            outlined: Draw the mask's edge in full colour.
        """
        where = self._enlarged(mask.astype(np.uint8))
        rows, columns = top * self._factor, left * self._factor
        part = self._pixels[rows : rows + where.shape[0], columns : columns + where.shape[1]]
        inside = where[: part.shape[0], : part.shape[1]].astype(bool)
        part[inside] = np.rint((1 - TINT) * part[inside] + TINT * np.array(color))
        if outlined:
            edges, _ = cv2.findContours(where, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(self._pixels, edges, -1, color, self._thickness, offset=(columns, rows))

    def dim(self, matte: Pixels) -> None:
        """Darken the pixels by how little they belong to the foreground of *matte*, uint8 (H, W)."""
        light = DIMMED + (1 - DIMMED) / 255 * self._enlarged(matte).astype(np.float32)
        self._pixels = np.rint(self._pixels * light[..., None]).astype(np.uint8)

    def label(self, text: str, box: Box, ground: Color) -> None:
        """Write *text* at the upper left corner of *box*: above its edge where there is room, otherwise below."""
        fitting = self._fitting(text)
        width, height = self._extent(fitting)
        x, y = self._place((box[0], box[1]))
        top = y - height if y >= height else min(max(0, y), self._height - height)
        self._texts.append((fitting, (min(max(0, x), max(0, self._width - width)), max(0, top)), ground))

    def caption(self, lines: Sequence[tuple[str, Color]]) -> None:
        """Write *lines*, each a text and its ground, one below the other from the upper left corner."""
        _, height = self._extent("")
        for number, (text, ground) in enumerate(lines[: max(1, self._height // height)]):
            self._texts.append((self._fitting(text), (0, number * height), ground))

    def _rims(self, color: Color) -> tuple[tuple[Color, int], tuple[Color, int]]:
        """Return the colours to draw a line in, one over the other, and how much thicker than itself each is."""
        return (text_color(color), 2), (color, 0)

    def _place(self, point: Point) -> tuple[int, int]:
        x, y = (min(max(round(value * self._factor), -LONGEST_AT_MOST), 1 << 20) for value in point)
        return x, y

    def _enlarged(self, pixels: Pixels) -> Pixels:
        """Return a copy of *pixels*, (H, W) or (H, W, 3), each as a square of the enlargement."""
        return pixels.repeat(self._factor, axis=0).repeat(self._factor, axis=1)

    def _extent(self, text: str) -> tuple[int, int]:
        """Return (width, height) of the ground of *text*."""
        ascent, descent = self._font.getmetrics()
        return math.ceil(self._font.getlength(text)) + 2 * (descent + 1), ascent + descent + 2

    def _fitting(self, text: str) -> str:
        """Return *text* on one line, cut where it is wider than the picture."""
        line = " ".join(text[:LONGEST_TEXT].split())
        if self._extent(line)[0] <= self._width:
            return line
        keep = bisect.bisect_right(range(2, len(line)), self._width, key=lambda end: self._extent(f"{line[:end]}…")[0])
        return f"{line[: keep + 1]}…"
