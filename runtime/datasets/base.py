"""What a dataset is: rows of images, with what is known of them where there is something, readable from any row on.

Rules:
    * A row knows the file and the number in it that it came from, so that any answer can be traced.
    * `rows(start, stop)` reads that range only, as far as the format allows.
    * Encoded images stay bytes; raw ones are uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from runtime.datasets.objects import Objects
from runtime.errors import DatasetError

__all__ = ["ArrayDataset", "Dataset", "Row", "Subset", "file_fingerprint", "to_rgb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image.

    Attributes:
        image: Encoded bytes, uint8 pixels (H, W, 3) in RGB, or ``None`` where the dataset has none.
        label: Class index, if the dataset has labels.
        objects: What is where in the image, if the dataset says.
        mask: The encoded image whose pixels are the classes of this one's, if the dataset has it.
        source_file: The file that it came from.
        source_row: Its number in that file, from 0.
    """

    image: bytes | npt.NDArray[np.uint8] | None
    label: int | None
    source_file: str
    source_row: int
    objects: Objects | None = None
    mask: bytes | None = None


class Dataset(Protocol):
    """Rows of images."""

    @property
    def uri(self) -> str:
        """Where it came from."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of classes (of images or objects) by index; ``None`` if there are none."""

    @property
    def fingerprint(self) -> str:
        """Changes when the content does: a hash of what the files say of themselves."""

    def __len__(self) -> int:
        """The number of rows."""

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop* (``None``: the end)."""


def to_rgb(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return gray images (..., H, W) as RGB (..., H, W, 3), a view."""
    return np.broadcast_to(images[..., None], (*images.shape, 3))


def file_fingerprint(files: Sequence[Path]) -> str:
    """Return a hash of the names, sizes and modification times of *files*, and of the files in a directory."""
    digest = hashlib.sha256()
    for file in files:
        if file.is_dir():
            digest.update(file_fingerprint(sorted(file.iterdir())).encode())
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayDataset:
    """A dataset of equally sized raw images that fits in memory."""

    uri: str
    images: npt.NDArray[np.uint8]  # (N, H, W, 3) RGB
    labels: npt.NDArray[np.int64] | None  # (N,)
    label_names: tuple[str, ...] | None
    source_file: str
    fingerprint: str

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.images):
            raise DatasetError(f"{self.uri}: {len(self.images)} images, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*."""
        for number in range(*slice(start, stop).indices(len(self))):
            label = None if self.labels is None else int(self.labels[number])
            yield Row(image=self.images[number], label=label, source_file=self.source_file, source_row=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """Rows of another dataset by number, in any order, any of them more than once."""

    base: Dataset
    numbers: tuple[int, ...]

    @classmethod
    def repeated(cls, base: Dataset, length: int) -> Self:
        """Return *base*, begun again and again until there are *length* rows."""
        return cls(base=base, numbers=tuple(number % len(base) for number in range(length)))

    @property
    def uri(self) -> str:
        """Where the whole came from."""
        return self.base.uri

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The class names of the whole."""
        return self.base.label_names

    @property
    def fingerprint(self) -> str:
        """Of the whole and of which rows these are."""
        return hashlib.sha256(f"{self.base.fingerprint}{self.numbers}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*; the whole is read once for each rise of numbers."""
        for rise in _rises(self.numbers[start:stop]):
            chosen = set(rise)
            for number, row in enumerate(self.base.rows(rise[0], rise[-1] + 1), start=rise[0]):
                if number in chosen:
                    yield row


def _rises(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield *numbers* in parts as long as each is greater than the one before."""
    ends = [place for place in range(1, len(numbers)) if numbers[place] <= numbers[place - 1]]
    for start, stop in pairwise([0, *ends, len(numbers)]):
        if start < stop:
            yield numbers[start:stop]
