"""Sources of frames by URI.

    file:///dir/*.jpg          the files that match, in the order of their names, over and over
    file+once:///dir/*.jpg     the same, once
    dataset:digits#test        the rows of any dataset that `runtime.datasets` opens, over and over
    dataset+once:digits#test   the same, once
    digits#test                a URI without a scheme is a dataset, as everywhere in Vedette

Rules:
    * A frame is numbered from 0 over the life of the source; `frames(start)` goes on where another
      process stopped.
    * Nothing is decoded here: what is no picture is the consumer's to count.
    * An empty source is an error at once, not silence.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from runtime.datasets import Dataset, open_dataset
from runtime.errors import UsageError

__all__ = ["SOURCES", "Frame", "Source", "open_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One picture from a source."""

    number: int  # from 0, rising by one
    name: str  # where it came from: a path, or FILE#ROW
    image: bytes | Path | npt.NDArray[np.uint8]  # encoded, a file, or uint8 (H, W, 3) RGB


class Source(Protocol):
    """A place that frames come from."""

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Yield the frames from number *start* on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Files by a glob pattern; the list is made when the source is opened."""

    paths: tuple[Path, ...]
    once: bool

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for number in _numbers(start, len(self.paths), once=self.once):
            path = self.paths[number % len(self.paths)]
            yield Frame(number=number, name=str(path), image=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows of a dataset."""

    dataset: Dataset
    once: bool

    def frames(self, start: int = 0) -> Iterator[Frame]:
        size, number = len(self.dataset), start
        while number < size or not self.once:
            for row in self.dataset.rows(number % size):
                image = b"" if row.image is None else row.image  # no bytes: counted as a bad frame
                yield Frame(number=number, name=f"{row.source_file}#{row.source_row}", image=image)
                number += 1


def _numbers(start: int, size: int, *, once: bool) -> Iterator[int]:
    number = start
    while number < size or not once:
        yield number
        number += 1


def _open_files(location: str, *, once: bool) -> Source:
    pattern = unquote(location.removeprefix("//"))
    paths = tuple(Path(path) for path in sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207 - absolute pattern
    files = tuple(path for path in paths if path.is_file())
    if not files:
        raise UsageError(f"source file:{location}: no file matches {pattern}; expected file:///absolute/path/*.jpg")
    return _Files(paths=files, once=once)


def _open_dataset(location: str, *, once: bool) -> Source:
    return _Rows(dataset=open_dataset(location), once=once)


SOURCES: Mapping[str, Callable[..., Source]] = {"file": _open_files, "dataset": _open_dataset}


def open_source(uri: str) -> Source:
    """Open the source that *uri* names.

    Raises:
        UsageError: The URI names no kind of source, or nothing matches it.
        DatasetError: The dataset cannot be read.
    """
    scheme, colon, location = uri.partition(":")
    if not colon:
        scheme, location = "dataset", uri
    kind, _, how = scheme.partition("+")
    if not location or kind not in SOURCES or how not in {"", "once"}:
        raise UsageError(
            f"source {uri!r} is not known; expected one of {', '.join(f'{k}:, {k}+once:' for k in SOURCES)}"
        )
    return SOURCES[kind](location, once=how == "once")
