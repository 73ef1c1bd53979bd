"""Cut an input into shards: the pure core of planning.

Rules:
    * Every row of every file is in exactly one shard; a shard never spans two files.
    * The plan is a function of the files (path, etag, row groups) and the limits alone: not of the
      number of workers, the clock or the order in which a directory was listed. So the same command
      finds its own shards again, and that is what resuming is.
    * Small row groups are joined up to the limits; a row group above a limit is cut into even ranges.
    * Only descriptors are made here; no pixel is read (`cluster.sources` reads the footers).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

__all__ = ["SHARD_BYTES", "InputFile", "RowGroup", "Shard", "ShardLimits", "default_shard_rows", "plan_shards"]

SHARD_BYTES = 128 * 1024**2  # of the columns that are read, uncompressed
SHARD_ROWS_RANGE = (128, 8192)
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
class Shard:
    """A range of rows of one file: the unit of work, of retry and of commit.

    Attributes:
        id: Its place in the plan and a digest of what it is: ``00017-3fa9c1d2``.
        reader: Key of the reader in `cluster.sources.READERS`.
        path: Of the file, as in `InputFile`.
        etag: That the file must still have.
        start: First row, counted from the start of the file.
        stop: One past the last row.
        groups: The half-open range of row groups that hold the rows.
        group_start: Row at which the first of those row groups begins; at most *start*.
        size: About how many bytes will be read.
    """

    id: str
    reader: str
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

    def part(self, first: int, end: int) -> Shard:
        """Return the rows [*first*, *end*) of it, counted from its first, as a shard of the same id."""
        return replace(self, start=self.start + first, stop=self.start + end)

    def __str__(self) -> str:
        return f"{self.id} ({self.path} rows {self.start}-{self.stop - 1})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLimits:
    """How big a shard may be; one row may exceed *size*.

    Attributes:
        rows: At most so many rows.
        size: At most about so many bytes of the columns that are read.
    """

    rows: int
    size: int = SHARD_BYTES


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows [start, stop) of a file, in its row groups [first, end), the first of which begins at *group_start*."""

    first: int
    end: int
    group_start: int
    start: int
    stop: int
    size: int


def default_shard_rows(rows: int) -> int:
    """Return the rows of a shard for an input of *rows* rows: about 64 shards, within bounds."""
    low, high = SHARD_ROWS_RANGE
    return min(max(rows // SHARDS_WANTED, low), high)


def plan_shards(files: Sequence[InputFile], limits: ShardLimits, *, reader: str) -> tuple[Shard, ...]:
    """Return the shards of *files*, in the order of the files' paths and of the rows in them."""
    spans = (
        (file, span) for file in sorted(files, key=lambda file: file.path) for span in _cut_file(file.groups, limits)
    )
    return tuple(
        Shard(
            id=f"{index:05d}-{_digest(file, span)}",
            reader=reader,
            path=file.path,
            etag=file.etag,
            start=span.start,
            stop=span.stop,
            groups=(span.first, span.end),
            group_start=span.group_start,
            size=span.size,
        )
        for index, (file, span) in enumerate(spans)
    )


def _digest(file: InputFile, span: _Span) -> str:
    identity = json.dumps([file.path, file.etag, span.start, span.stop])
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _cut_file(groups: Sequence[RowGroup], limits: ShardLimits) -> Iterator[_Span]:
    """Yield spans that cover all rows of *groups* once, in order."""
    open_span: _Span | None = None
    position = 0
    for index, group in enumerate(groups):
        span = _Span(index, index + 1, position, position, position + group.rows, group.size)
        position += group.rows
        if group.rows == 0:
            continue
        if open_span and _fits(joined := _join(open_span, span), limits):
            open_span = joined
            continue
        if open_span:
            yield open_span
        open_span = span if _fits(span, limits) else None
        if open_span is None:
            yield from _cut_group(span, limits)
    if open_span:
        yield open_span


def _fits(span: _Span, limits: ShardLimits) -> bool:
    return span.stop - span.start <= limits.rows and span.size <= limits.size


def _join(left: _Span, right: _Span) -> _Span:
    return _Span(left.first, right.end, left.group_start, left.start, right.stop, left.size + right.size)


def _cut_group(span: _Span, limits: ShardLimits) -> Iterator[_Span]:
    """Yield the rows of one row group in pieces of nearly equal length within *limits*."""
    rows = span.stop - span.start
    pieces = min(rows, max(-(-rows // limits.rows), -(-span.size // limits.size)))
    for piece in range(pieces):
        start, stop = rows * piece // pieces, rows * (piece + 1) // pieces
        yield _Span(
            span.first,
            span.end,
            span.group_start,
            span.start + start,
            span.start + stop,
            span.size * (stop - start) // rows,
        )
