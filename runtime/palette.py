"""Which colour a class has, the same in every picture and mask.

Rules:
    * The hues are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any of the common kinds
      of colour blindness tell apart; classes beyond the seventh take them again, lighter or darker.
    * Class 0 of a mask is black, as in PASCAL VOC's palette: it is the background in most models.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Color", "color_of", "mask_palette"]

Color = tuple[int, int, int]
"""RGB grey levels, 0 to 255."""

HUES: Sequence[Color] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
# (share of the hue, share of white, the rest is black), one after the other
SHADES: Sequence[tuple[float, float]] = ((1.0, 0.0), (0.5, 0.5), (0.6, 0.0), (0.75, 0.25), (0.4, 0.2))


def color_of(index: int) -> Color:
    """Return the colour of class *index*; after ``len(HUES) * len(SHADES)`` classes they begin again."""
    hue = HUES[index % len(HUES)]
    share, white = SHADES[index // len(HUES) % len(SHADES)]
    red, green, blue = (round(level * share + 255 * white) for level in hue)
    return red, green, blue


def mask_palette() -> bytes:
    """Return the 256 colours of a palette mask, RGB one after the other: black, then those of the classes from 1."""
    return bytes(level for index in range(256) for level in (color_of(index) if index else (0, 0, 0)))
