"""A folder of pictures with a table of their classes: Hugging Face's ``metadata.csv``, or ``labels.csv``.

Rules:
    * The first line names the columns: the picture is in the first of `FILE_COLUMNS` that there is, its class in the
      first of `CLASS_COLUMNS`. A table without both says nothing of classes, and the folder is one of pictures.
    * Classes that are whole numbers are indices without names; otherwise they are names, in the order of the alphabet.
    * Pictures come by file name. A picture that is listed and not there is a row without an image; one that is there
      and not listed is no row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

from runtime.datasets.base import Row, file_fingerprint
from runtime.errors import DatasetError

__all__ = ["ListedDataset", "table_in"]

TABLES = ("metadata.csv", "labels.csv")
FILE_COLUMNS = ("file_name", "file", "filename", "image")
CLASS_COLUMNS = ("label_id", "label", "index", "class")


def table_in(directory: Path) -> Path | None:
    """Return the table of classes in *directory*; ``None`` if there is none."""
    found = (path for name in TABLES if (path := directory / name).is_file())
    return next((path for path in found if all(_columns(path))), None)


def _columns(table: Path) -> tuple[str | None, str | None]:
    """Return the names of the columns with the picture and with its class."""
    with _opened(table) as file:
        header = next(csv.reader(file), [])
    return _first(FILE_COLUMNS, header), _first(CLASS_COLUMNS, header)


def _opened(table: Path) -> TextIO:
    return table.open(encoding="utf-8-sig", newline="")


def _first(wanted: Sequence[str], header: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in header), None)


@dataclass(frozen=True)
class ListedDataset:
    """The pictures that one table lists."""

    uri: str
    table: Path

    @cached_property
    def _classes(self) -> Mapping[Path, str]:
        """What the table says of each picture."""
        try:
            file_column, class_column = _columns(self.table)
            with _opened(self.table) as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{self.table} is no readable table: {' '.join(str(error).split())}") from None
        found = {self.table.parent / (row[file_column or ""] or ""): row[class_column or ""] for row in rows}
        if short := next((path for path, said in found.items() if not said), None):
            raise DatasetError(f"{self.table}: {short.name or 'a line'} has no {class_column}")
        return dict(sorted(found.items()))

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """The classes, in the order of the alphabet; ``None`` if they are numbers."""
        names = set(self._classes.values())
        return None if all(name.isdecimal() for name in names) else tuple(sorted(names))

    @cached_property
    def fingerprint(self) -> str:
        """Of the table, and of names, sizes and modification times of the pictures."""
        return file_fingerprint([self.table, *(path for path in self._classes if path.is_file())])

    def __len__(self) -> int:
        return len(self._classes)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*; each picture is one row, number 0."""
        place = {name: number for number, name in enumerate(self.label_names or ())}
        for path, said in list(self._classes.items())[start:stop]:
            try:
                data: bytes | None = path.read_bytes()
            except OSError:
                data = None
            label = place[said] if place else int(said)
            yield Row(image=data, label=label, source_file=str(path), source_row=0)
