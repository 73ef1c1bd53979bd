"""Cut an input into shards: the pure core of planning.

Rules:
    * Every row of every file is in exactly one shard.
    * The plan is a function of the files (path, etag, row groups) and the limits alone: not of the
      number of workers, the clock or the order in which a directory was listed. So the same command
      finds its own shards again, and that is what resuming is.
    * Small row groups are joined up to the limits, those of several files, too; a row group above a
      limit is cut into even ranges.
    * The first shards are small, so that there is something to see soon, and each `RAMP` of them may be twice as big
      as those before.
    * Only descriptors are made here; no pixel is read (`cluster.input.sources` reads the footers).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

__all__ = [
    "SHARD_BYTES",
    "FileRange",
    "InputFile",
    "RowGroup",
    "Shard",
    "ShardLimits",
    "plan_shards",
]

SHARD_BYTES = 128 * 1024**2  # of the columns that are read, uncompressed
SHARD_ROWS_RANGE = (64, 8192)
FIRST_ROWS = 32  # some tenths of a second for one core
RAMP = 4  # shards of one size before their size doubles
SHARDS_WANTED = 64  # enough to balance the workers and to lose little at a crash


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a file: how many rows, and their bytes (uncompressed) in the columns that are read."""

    rows: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file of the input as it was when it was planned.

    Attributes:
        path: Where it is, absolute; or the URI of a dataset that is no Parquet.
        etag: Changes when the content does.
        groups: Its row groups, in order; one for forms without any.
    """

    path: str
    etag: str
    groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRange:
    """A range of rows of one file.

    Attributes:
        path: Of the file, as in `InputFile`.
        etag: That the file must still have.
        start: First row, counted from the start of the file.
        stop: One past the last row.
        groups: The half-open range of row groups that hold the rows.
        group_start: Row at which the first of those row groups begins; at most *start*.
        size: About how many bytes will be read.
    """

    path: str
    etag: str
    start: int
    stop: int
    groups: tuple[int, int]
    group_start: int
    size: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.path} rows {self.start}-{self.stop - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Ranges of rows of one file or several: the unit of work, of retry and of commit.

    Attributes:
        id: Its place in the plan and a digest of what it is: ``00017-3fa9c1d2``.
        reader: Key of the reader in `cluster.input.readers.READERS`.
        ranges: At least one, each with at least one row, in the order of the input.
    """

    id: str
    reader: str
    ranges: tuple[FileRange, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(one.rows for one in self.ranges)

    @property
    def size(self) -> int:
        """About how many bytes will be read."""
        return sum(one.size for one in self.ranges)

    def part(self, first: int, end: int) -> Shard:
        """Return the rows [*first*, *end*) of it, counted from its first, as a shard of the same id."""
        chosen, offset = [], 0
        for one in self.ranges:
            start, stop = max(first - offset, 0), min(end - offset, one.rows)
            if start < stop:
                size = one.size * (stop - start) // one.rows
                chosen.append(replace(one, start=one.start + start, stop=one.start + stop, size=size))
            offset += one.rows
        return replace(self, ranges=tuple(chosen))

    def __str__(self) -> str:
        others = len(self.ranges) - 1
        return f"{self.id} ({self.ranges[0]}{f' and {others} other file(s)' if others else ''})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLimits:
    """How big a shard may be; one row may exceed *size*.

    Attributes:
        rows: At most so many rows.
        size: At most about so many bytes of the columns that are read.
        first: Rows of each of the first `RAMP` shards; twice as many of those after them, and so on; ``None``: *rows*.
    """

    rows: int
    size: int = SHARD_BYTES
    first: int | None = None

    @classmethod
    def default(cls, rows: int) -> Self:
        """Return the limits for an input of *rows* rows: about 64 shards, within bounds, and small ones before them."""
        low, high = SHARD_ROWS_RANGE
        return cls(rows=min(max(rows // SHARDS_WANTED, low), high), first=FIRST_ROWS)

    def rows_of(self, index: int) -> int:
        """Return how many rows shard number *index* (from 0) may have."""
        if self.first is None:
            return self.rows
        doublings = min(index // RAMP, self.rows.bit_length())  # after so many it is surely above the limit
        return min(self.rows, self.first << doublings)

    def fits(self, index: int, rows: int, size: int) -> bool:
        """Whether shard number *index* may have *rows* rows of *size* bytes together."""
        return rows <= self.rows_of(index) and size <= self.size

    def pieces(self, index: int, group: FileRange) -> int:
        """Return in how many pieces *group* must be cut for shard number *index*, and those after it, to hold one."""
        return min(group.rows, max(-(-group.rows // self.rows_of(index)), -(-group.size // self.size)))


def plan_shards(files: Sequence[InputFile], limits: ShardLimits, *, reader: str) -> tuple[Shard, ...]:
    """Return the shards of *files*, in the order of the files' paths and of the rows in them."""
    groups = (group for file in sorted(files, key=lambda file: file.path) for group in _groups(file))
    return tuple(
        Shard(id=f"{index:05d}-{_digest(ranges)}", reader=reader, ranges=ranges)
        for index, ranges in enumerate(_pack(groups, limits))
    )


def _digest(ranges: Sequence[FileRange]) -> str:
    identity = json.dumps([[one.path, one.etag, one.start, one.stop] for one in ranges])
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _groups(file: InputFile) -> Iterator[FileRange]:
    """Yield the row groups of *file* that have rows."""
    position = 0
    for index, group in enumerate(file.groups):
        if group.rows:
            yield FileRange(
                path=file.path,
                etag=file.etag,
                start=position,
                stop=position + group.rows,
                groups=(index, index + 1),
                group_start=position,
                size=group.size,
            )
        position += group.rows


def _pack(groups: Iterable[FileRange], limits: ShardLimits) -> Iterator[tuple[FileRange, ...]]:
    """Yield what goes into each shard: all rows of *groups* once, in order."""
    packed: list[FileRange] = []
    rows = size = index = 0
    for group in groups:
        if packed and not limits.fits(index, rows + group.rows, size + group.size):
            yield tuple(packed)
            packed, rows, size, index = [], 0, 0, index + 1
        rest = group
        while (pieces := limits.pieces(index, rest)) > 1:
            head, rest = _split(rest, -(-rest.rows // pieces))
            yield (head,)
            index += 1
        rows, size = rows + rest.rows, size + rest.size
        if packed and packed[-1].path == rest.path:
            packed[-1] = _join(packed[-1], rest)
        else:
            packed.append(rest)
    if packed:
        yield tuple(packed)


def _join(left: FileRange, right: FileRange) -> FileRange:
    return replace(left, stop=right.stop, groups=(left.groups[0], right.groups[1]), size=left.size + right.size)


def _split(group: FileRange, rows: int) -> tuple[FileRange, FileRange]:
    """Return the first *rows* of one row group, and the rest."""
    middle, size = group.start + rows, group.size * rows // group.rows
    return replace(group, stop=middle, size=size), replace(group, start=middle, size=group.size - size)
