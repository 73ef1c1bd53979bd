"""Pictures and masks in two folders side by side: a mask has the name of its picture, but for the suffix.

Rules:
    * The folders are those of one row of `LAYOUTS`. A picture without a mask is no row (PASCAL VOC has thousands of
      them); a mask without a picture is an error.
    * What a mask's numbers mean is left to whoever reads it: its bytes are passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runtime.datasets.base import Row, file_fingerprint
from runtime.errors import DatasetError

__all__ = ["PairsDataset", "mask_folder"]

LAYOUTS: Sequence[tuple[str, str]] = (
    ("images", "masks"),
    ("images", "labels"),
    ("images", "annotations"),
    ("image", "mask"),
    ("JPEGImages", "SegmentationClass"),
)
"""(folder of pictures, folder of masks)"""


def mask_folder(directory: Path, suffixes: frozenset[str]) -> tuple[Path, Path] | None:
    """Return the folders of pictures and of masks in *directory*; ``None`` if it has no such pair.

    Args:
        directory: To look in.
        suffixes: Of image files; a folder without any holds something else (YOLO's labels are text).
    """
    for pictures, masks in LAYOUTS:
        folders = directory / pictures, directory / masks
        if all(folder.is_dir() and _by_stem(folder, suffixes) for folder in folders):
            return folders
    return None


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return {path.stem: path for path in sorted(files)}


@dataclass(frozen=True)
class PairsDataset:
    """The pictures of one folder that have a mask in another."""

    uri: str
    pictures: Path
    masks: Path
    suffixes: frozenset[str]

    @property
    def label_names(self) -> None:
        """Masks hold numbers."""

    @cached_property
    def _pairs(self) -> tuple[tuple[Path, Path], ...]:
        pictures, masks = _by_stem(self.pictures, self.suffixes), _by_stem(self.masks, self.suffixes)
        if lonely := sorted(masks.keys() - pictures.keys()):
            names = ", ".join(masks[stem].name for stem in lonely[:3])
            raise DatasetError(f"{self.masks} has {len(lonely)} masks without a picture in {self.pictures}: {names}")
        return tuple((pictures[stem], mask) for stem, mask in masks.items())

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes and modification times of the pictures and masks."""
        return file_fingerprint([path for pair in self._pairs for path in pair])

    def __len__(self) -> int:
        return len(self._pairs)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*; each picture is one row, number 0."""
        for picture, mask in self._pairs[start:stop]:
            yield Row(
                image=picture.read_bytes(), label=None, mask=mask.read_bytes(), source_file=str(picture), source_row=0
            )
