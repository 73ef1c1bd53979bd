"""An image folder: one sub-folder a class, in the order of their names; or just images, without labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runtime.datasets.base import Row, file_fingerprint

__all__ = ["IMAGE_SUFFIXES", "FolderDataset", "has_images"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def _images(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def has_images(directory: Path) -> bool:
    """Whether there is an image anywhere below *directory*."""
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in directory.rglob("*"))


@dataclass(frozen=True)
class FolderDataset:
    """The images below one directory."""

    uri: str
    root: Path

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the sub-folders that hold images; ``None`` if images lie directly in the root."""
        if any(p.suffix.lower() in IMAGE_SUFFIXES for p in self.root.iterdir()):
            return None
        return tuple(sorted(p.name for p in self.root.iterdir() if p.is_dir() and has_images(p)))

    @cached_property
    def _files(self) -> tuple[tuple[Path, int | None], ...]:
        names = self.label_names
        if names is None:
            return tuple((file, None) for file in _images(self.root))
        return tuple((file, label) for label, name in enumerate(names) for file in _images(self.root / name))

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
