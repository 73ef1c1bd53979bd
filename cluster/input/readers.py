"""The readers that workers use: rows of Parquet files and of every other form of dataset.

Rules:
    * A reader yields the rows of a range in small blocks; memory is bounded by the block and by
      Parquet's page, not by the row group (`ParquetFile.iter_batches` without pre-buffering). Writers
      that check a page's size every 1,024 values only, as Arrow's does, make big pages of images.
    * Sample and filter look at their own columns first: images of a range in which no row is taken are
      not read at all, and those of other rows that are not taken are never decoded.
    * A file that is not the one that was planned is an error, before and after it was read.
    * Images that a column names by URL are fetched ahead of the block that is yielded, within limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import InputChangedError, InputError
from cluster.input.blocks import Block, BlockLimits, Image, packed
from cluster.input.filters import Filter
from cluster.input.sources import LABEL_SCHEMA, Columns
from cluster.plan import FileRange, Shard
from cluster.storage import Reader as OpenFile
from cluster.storage import is_remote
from cluster.storage.fetch import FETCH_LIMITS, Fetcher, FetchLimits
from cluster.storage.inputs import Places, column_ranges
from runtime.datasets import Dataset, Row, open_dataset

__all__ = ["READERS", "Reader", "shard_blocks"]

FILTER_ROWS = 65_536  # rows of filter columns in memory at a time
READ_BUFFER = 1 << 20  # bytes a column chunk is read in
READ_BYTES = 2 << 20  # about so many bytes of rows at a time, or one row


class Reader(Protocol):
    """Reads files of one form of input; used by several threads at a time."""

    def blocks(self, part: FileRange, limits: BlockLimits) -> Iterator[Block]:
        """Yield the rows of *part* in blocks of any size up to *limits*; those left out only as a number.

        Raises:
            InputChangedError: The file is not the one that was planned.
            InputError: The file is damaged.
        """


class _Open(NamedTuple):
    """An open file, and Parquet's view of it."""

    reader: OpenFile
    parquet: pq.ParquetFile


_Unfetched = tuple[Block, Sequence[Image | str]]  # a block, and its images or their URLs


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Reads row ranges of Parquet files."""

    columns: Columns
    fetch: FetchLimits = FETCH_LIMITS
    _places: Places = field(default_factory=Places)
    _fetcher: Fetcher = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fetcher", Fetcher(self.fetch))

    def blocks(self, part: FileRange, limits: BlockLimits) -> Iterator[Block]:
        """Yield the rows of *part*; see `Reader`."""
        rows = min(limits.rows, max(1, min(limits.size, READ_BYTES) * part.rows // max(part.size, 1)))
        with closing(self._opened(part)) as file:
            try:
                with pq.ParquetFile(file.source, pre_buffer=False, buffer_size=READ_BUFFER) as parquet:
                    unfetched = self._blocks(_Open(file, parquet), part, rows)
                    for block, images in self._fetcher.ahead(unfetched):
                        yield replace(block, images=images)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise
                raise InputError(f"{part} cannot be read: {' '.join(str(error).split())}") from None
            if not file.unchanged():
                raise _changed(part)

    def _opened(self, part: FileRange) -> OpenFile:
        """Open the file of *part*, which must be the one that was planned."""
        try:
            file = self._places.reader(part.path)
        except OSError as error:
            raise InputChangedError(f"{part.path} cannot be read any more: {error.strerror or 'it is gone'}") from None
        if file.entry.etag != part.etag:
            raise _changed(part)
        return file

    def _blocks(self, file: _Open, part: FileRange, rows: int) -> Iterator[_Unfetched]:
        taken = self._taken(file, part)
        if taken is not None and len(taken) == 0:
            kept = file.parquet.schema_arrow.empty_table().select(list(self.columns.keep))
            yield Block(images=(), source_files=[], source_rows=[], kept=kept, filtered=part.rows), []
            return
        wanted = list(dict.fromkeys(filter(None, (self.columns.image, *self.columns.keep))))
        for start, batch in _ranges(file, part, wanted, rows):
            numbers = np.arange(start, start + batch.num_rows)
            picked = batch
            if taken is not None:
                numbers = np.intersect1d(numbers, taken, assume_unique=True)
                picked = batch.take(pa.array(numbers - start))
            yield self._block(part, numbers.tolist(), picked, filtered=batch.num_rows - len(numbers))

    def _taken(self, file: _Open, part: FileRange) -> npt.NDArray[np.int64] | None:
        """Return the numbers (ascending) of the rows of *part* that sample and filter take; ``None`` for all."""
        sample = self.columns.sample
        sampled = None if sample is None else sample.rows(part.path, part.start, part.stop)
        if self.columns.filter is None or (sampled is not None and len(sampled) == 0):
            return sampled
        matching = self._matching(file, part, Filter.parse(self.columns.filter))
        return matching if sampled is None else np.intersect1d(sampled, matching, assume_unique=True)

    def _matching(self, file: _Open, part: FileRange, condition: Filter) -> npt.NDArray[np.int64]:
        """Return the numbers (ascending) of the rows of *part* that fulfil *condition*."""
        expression = condition.expression(file.parquet.schema_arrow)
        found = [np.empty(0, np.int64)]
        for start, batch in _ranges(file, part, list(condition.columns), FILTER_ROWS):
            table = pa.Table.from_batches([batch])
            # The number of the row goes last, so that no column of the input can hide it.
            numbered = table.append_column("", pa.array(np.arange(start, start + batch.num_rows)))
            found.append(numbered.filter(expression).column(table.num_columns).to_numpy())
        return np.concatenate(found)

    def _block(self, part: FileRange, numbers: list[int], rows: pa.RecordBatch, filtered: int) -> _Unfetched:
        cells = rows.column(self.columns.image).to_pylist()
        block = Block(
            images=(),  # until they are fetched
            source_files=[part.path] * len(numbers),
            source_rows=numbers,
            kept=pa.Table.from_batches([rows]).select(list(self.columns.keep)),
            filtered=filtered,
        )
        return block, [_image_of(cell, part.path) for cell in cells]


def _ranges(file: _Open, part: FileRange, columns: list[str], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (number of its first row in the file, batch) for the rows of *part* and no others."""
    position, groups = part.group_start, range(*part.groups)
    file.reader.expect(column_ranges(file.parquet.metadata, groups, columns))
    for batch in file.parquet.iter_batches(batch_size=rows, row_groups=groups, columns=columns):
        first = max(position, part.start)
        last = min(position + batch.num_rows, part.stop)
        if first < last:
            yield first, batch.slice(first - position, last - first)
        position += batch.num_rows
        if position >= part.stop:
            return


def _changed(part: FileRange) -> InputChangedError:
    return InputChangedError(
        f"{part.path} changed after the job was planned; put the old file back, or write to a new output"
    )


def _image_of(cell: Any, file: str) -> Image | str:
    """Return the image, or its URL, that one *cell* of an image column means; paths count from the folder of *file*."""
    if isinstance(cell, Mapping):
        data, path = cell.get("bytes"), cell.get("path")
        return data if data is not None or path is None else _named(path, file)
    if isinstance(cell, str):
        return _named(cell, file)
    return cell if cell is None else bytes(cell)


def _named(name: str, file: str) -> Path | str:
    """Return the path, or the URL to fetch, that *name* means in *file*."""
    if name.startswith("file://"):
        return Path(name.removeprefix("file://"))
    if "://" in name:
        return name
    if is_remote(file) and not name.startswith("/"):
        return f"{file.rpartition('/')[0]}/{name.removeprefix('./')}"
    return Path(file).parent / name


# ---------------------------------------------------------------------------- other datasets


@dataclass(frozen=True, slots=True)
class DatasetReader:
    """Reads row ranges of what `runtime.datasets` opens: image folders, IDX, CIFAR's archive, digits."""

    columns: Columns
    _opened: dict[str, Dataset] = field(default_factory=dict)

    def blocks(self, part: FileRange, limits: BlockLimits) -> Iterator[Block]:
        """Yield the rows of *part*; see `Reader`."""
        dataset = self._open(part)
        condition = Filter.parse(self.columns.filter).expression(LABEL_SCHEMA) if self.columns.filter else None
        sample = self.columns.sample
        for start in range(part.start, part.stop, limits.rows):
            stop = min(start + limits.rows, part.stop)
            taken = range(start, stop) if sample is None else set(sample.rows(part.path, start, stop).tolist())
            rows = [row for number, row in enumerate(dataset.rows(start, stop), start) if number in taken]
            yield self._block(rows, condition, stop - start)

    def _open(self, part: FileRange) -> Dataset:
        if part.path not in self._opened:
            self._opened[part.path] = open_dataset(part.path)
        dataset = self._opened[part.path]
        if dataset.fingerprint != part.etag:
            raise InputChangedError(
                f"{part.path} changed after the job was planned; put the old files back, or write to a new output"
            )
        return dataset

    def _block(self, rows: Sequence[Row], condition: Any, looked_at: int) -> Block:
        labels = pa.table({"label": pa.array([row.label for row in rows], pa.int64())})
        numbered = labels.append_column("", pa.array(np.arange(len(rows))))
        picked = numbered if condition is None else numbered.filter(condition)
        chosen = [rows[index] for index in picked.column(1).to_pylist()]
        return Block(
            images=[row.image for row in chosen],
            source_files=[row.source_file for row in chosen],
            source_rows=[row.source_row for row in chosen],
            kept=picked.select(list(self.columns.keep)),
            filtered=looked_at - len(chosen),
        )


def _dataset_reader(columns: Columns, _: FetchLimits = FETCH_LIMITS) -> Reader:
    return DatasetReader(columns)


def shard_blocks(
    readers: Mapping[str, Reader], shard: Shard, limits: BlockLimits, wanted: Callable[[], int] | None = None
) -> Iterator[Block]:
    """Yield the rows of *shard* in blocks as `packed` makes them, whatever files they are from; see `Reader`."""
    blocks = (block for part in shard.ranges for block in readers[shard.reader].blocks(part, limits))
    return packed(blocks, limits, wanted)


READERS: Mapping[str, Callable[..., Reader]] = {"parquet": ParquetReader, "dataset": _dataset_reader}
"""By `Shard.reader`; a new form of input is a new entry."""
