"""Drawn pictures as files in one directory.

Rules:
    * A file has the name of its picture: a JPEG for a JPEG, a PNG for anything else. Beside a class mask's picture lies
      the mask itself, ``<name>.mask.png``.
    * Two pictures of one name do not overwrite each other, nor does a drawn one overwrite a picture that was read: the
      later one becomes ``<name>-2``. The same pictures in the same order get the same names again.
    * A file appears whole or not at all.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.drawing import draw
from runtime.files import replace_bytes
from runtime.manifest import Postprocess
from runtime.tasks import Prediction, Segmentation
from runtime.tasks.records import class_mask_png

__all__ = ["Album"]

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif"})
JPEG_QUALITY = 92


class Album:
    """The drawn pictures of one call.

    Args:
        directory: Made where it is not there.
        sources: The pictures that are read; none of them is overwritten.
        postprocess: Of the model.
    """

    def __init__(self, directory: Path, sources: Iterable[Path], postprocess: Postprocess) -> None:
        self._directory = directory
        self._postprocess = postprocess
        self._taken = {source.resolve() for source in sources}

    def add(self, source: Path, picture: npt.NDArray[np.uint8], prediction: Prediction) -> list[Path]:
        """Draw *prediction* on *picture*, which was read from *source*, and return the files that it is in now.

        Args:
            source: Names the files.
            picture: uint8, (H, W, 3), RGB: the upright original.
            prediction: Of a kind that can be drawn.

        Raises:
            OSError: A file cannot be written.
        """
        jpeg = source.suffix.lower() in JPEG_SUFFIXES
        drawn = _encoded(draw(picture, prediction, self._postprocess), jpeg=jpeg)
        contents = {".jpg" if jpeg else ".png": drawn}
        if isinstance(prediction, Segmentation):
            contents[".mask.png"] = class_mask_png(prediction.mask)
        paths = self._free(source.stem, contents)
        for path, data in zip(paths, contents.values(), strict=True):
            replace_bytes(path, data)
        return paths

    def _free(self, stem: str, suffixes: Iterable[str]) -> list[Path]:
        """Return a path for each of *suffixes*, of one name, none of which is taken; they are then."""
        for name in _numbered(stem):
            paths = [self._directory / f"{name}{suffix}" for suffix in suffixes]
            found = {path.resolve() for path in paths}
            if self._taken.isdisjoint(found):
                self._taken |= found
                break
        return paths


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))


def _encoded(pixels: npt.NDArray[np.uint8], *, jpeg: bool) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if jpeg:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)  # coloured lines smear otherwise
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
