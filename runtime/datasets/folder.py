"""An image folder: one sub-folder a class, in the order of their names; or just images, without labels.

Rules:
    * Names that begin with a dot are not data: thumbnails, resource forks, files half written.
    * A folder that holds nothing but splits (`train`, `test`, ...) is no dataset of the classes train
      and test: a split must be chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runtime.datasets.base import Row, file_fingerprint
from runtime.errors import DatasetError

__all__ = ["IMAGE_SUFFIXES", "SPLIT_FOLDERS", "FolderDataset", "has_images"]

SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "val", "validation")}
SPLIT_NAMES = frozenset(name for names in SPLIT_FOLDERS.values() for name in names)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def _images(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path


def has_images(directory: Path) -> bool:
    """Whether there is an image anywhere below *directory*."""
    return any(True for _ in _images(directory))


@dataclass(frozen=True)
class FolderDataset:
    """The images below one directory."""

    uri: str
    root: Path

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the sub-folders that hold images; ``None`` if images lie directly in the root.

        Raises:
            DatasetError: All sub-folders are splits.
        """
        inside = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        if any(path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in inside):
            return None
        names = sorted(path.name for path in inside if path.is_dir() and has_images(path))
        if names and all(name in SPLIT_NAMES for name in names):
            raise DatasetError(f"{self.root} holds the splits {', '.join(names)}; choose one: {self.uri}#{names[-1]}")
        return tuple(names)

    @cached_property
    def _files(self) -> tuple[tuple[Path, int | None], ...]:
        names = self.label_names
        if names is None:
            return tuple((file, None) for file in sorted(_images(self.root)))
        return tuple((file, label) for label, name in enumerate(names) for file in sorted(_images(self.root / name)))

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes and modification times of the images."""
        return file_fingerprint([file for file, _ in self._files])

    def __len__(self) -> int:
        return len(self._files)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*; each file is one row, number 0."""
        for file, label in self._files[start:stop]:
            try:
                data: bytes | None = file.read_bytes()
            except OSError:
                data = None
            yield Row(image=data, label=label, source_file=str(file), source_row=0)
