"""Some images of an evaluation with the answers drawn on them, for people to look at.

Rules:
    * Where answers are right or wrong, as many of either are kept; otherwise any. They are chosen at random, with a
      fixed seed, while the images pass by (Vitter, Algorithm R, 1985): the same data shows the same examples.
    * Kept are small JPEGs, never the pictures.
"""

from __future__ import annotations

import io
import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.drawing import DRAWERS, draw
from runtime.evaluation.metrics.base import Verdict
from runtime.manifest import Postprocess
from runtime.tasks import Classification

__all__ = ["EACH", "Example", "Examples"]

EACH = 6  # right, wrong, or neither
SMALLEST = 160  # pixels; pictures much smaller than that are enlarged, so that their pixels are seen
LONGEST = 480  # pixels of a thumbnail's longer side
QUALITY = 80  # of JPEG


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image and its answer.

    Attributes:
        number: Which of the judged images it is.
        source: Name of its file.
        jpeg: The image, small, with the answer drawn on it where it can be seen.
        answer: What the model said, where that is one thing; otherwise empty.
        truth: What is known of the image, or how well it was answered.
        right: Whether the answer is right, where that is yes or no.
    """

    number: int
    source: str
    jpeg: bytes
    answer: str
    truth: str
    right: bool | None


class Examples:
    """Chooses some of the images that pass by.

    Args:
        postprocess: Of the model.
    """

    def __init__(self, postprocess: Postprocess) -> None:
        self._postprocess = postprocess
        self._chooser = random.Random(0)  # noqa: S311 - which examples are shown is no secret
        self._seen: defaultdict[bool | None, int] = defaultdict(int)
        self._kept: defaultdict[bool | None, list[Example]] = defaultdict(list)

    def offer(self, picture: npt.NDArray[np.uint8], verdict: Verdict, source: str) -> None:
        """Keep *picture* (H, W, 3) from the file *source* and its *verdict*, perhaps."""
        kept, seen = self._kept[verdict.right], self._seen[verdict.right]
        number = sum(self._seen.values())
        self._seen[verdict.right] += 1
        place = seen if seen < EACH else self._chooser.randrange(seen + 1)
        if place < EACH:
            kept[place : place + 1] = [self._example(number, picture, verdict, source)]

    @property
    def chosen(self) -> tuple[Example, ...]:
        """Those that were kept: wrong ones first, then in the order of the data."""
        return tuple(
            example for right in (False, True, None) for example in sorted(self._kept[right], key=lambda e: e.number)
        )

    def _example(self, number: int, picture: npt.NDArray[np.uint8], verdict: Verdict, source: str) -> Example:
        shown = verdict.shown
        said = f"{shown.label} {shown.score:.0%}" if isinstance(shown, Classification) else ""
        drawn = draw(picture, shown, self._postprocess) if type(shown) in DRAWERS and not said else picture
        return Example(
            number=number, source=source, jpeg=_thumbnail(drawn), answer=said, truth=verdict.said, right=verdict.right
        )


def _thumbnail(picture: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(picture)
    if enlarged := SMALLEST // max(image.size):
        image = image.resize((enlarged * image.width, enlarged * image.height), Image.Resampling.NEAREST)
    image.thumbnail((LONGEST, LONGEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
