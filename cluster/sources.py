"""Where rows come from: what the driver learns of an input, and the readers that the workers use.

Rules:
    * The driver reads footers only. Parquet keeps its row groups and columns; every other dataset
      form is one range of rows, with the column ``label`` if it has labels.
    * A reader yields the rows of one shard in small blocks; memory is bounded by the block and by
      Parquet's page, not by the row group (`ParquetFile.iter_batches` without pre-buffering). Writers
      that check a page's size every 1,024 values only, as Arrow's does, make big pages of images.
    * The filter looks at its own columns first: images of a shard in which no row matches are not
      read at all, and those of other rows that do not match are never decoded.
    * A file that is not the one that was planned is an error, before and after it was read.
    * Images that a column names by URL are fetched ahead of the block that is yielded, within limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import FilterError, InputChangedError, InputError, SchemaError
from cluster.filters import Filter
from cluster.plan import InputFile, RowGroup, Shard
from cluster.storage import Entry, absolute_uri, is_remote
from cluster.storage import Reader as OpenFile
from cluster.storage.fetch import FETCH_LIMITS, Fetcher, FetchLimits
from cluster.storage.inputs import Places, column_ranges, remote_parquet
from runtime.datasets import Dataset, Row, open_dataset, split_uri
from runtime.datasets.parquet import ParquetDataset, find_image_column, open_footer
from runtime.errors import DatasetError, ImageError

__all__ = ["READERS", "Block", "Columns", "Image", "Reader", "Source", "open_source"]

Image = bytes | Path | npt.NDArray[np.uint8] | ImageError | None

LABEL_SCHEMA = pa.schema([pa.field("label", pa.int64())])
FILTER_ROWS = 65_536  # rows of filter columns in memory at a time
READ_BUFFER = 1 << 20  # bytes a column chunk is read in
FOOTERS = 16  # read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns a job reads.

    Attributes:
        image: Holds the images; ``None`` for forms that have no columns.
        keep: Pass through to the output.
        filter: Text of the ``--filter`` expression.
    """

    image: str | None
    keep: tuple[str, ...] = ()
    filter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the driver knows of an input.

    Attributes:
        uri: Where it is; absolute.
        reader: Key of the reader in `READERS`.
        files: Its files with their row groups.
        schema: The columns that may be kept and filtered.
        columns: What is read of it.
    """

    uri: str
    reader: str
    files: tuple[InputFile, ...]
    schema: pa.Schema
    columns: Columns

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of a shard.

    Attributes:
        images: One a row: encoded bytes, a file to read, uint8 pixels (H, W, 3) RGB, what was wrong when it was
            fetched, or nothing.
        source_files: Where each row is from.
        source_rows: Its number there.
        kept: The columns that pass through; as many rows.
        filtered: How many rows did not match the filter since the block before.
    """

    images: Sequence[Image]
    source_files: Sequence[str]
    source_rows: Sequence[int]
    kept: pa.Table
    filtered: int = 0


class Reader(Protocol):
    """Reads shards of one form of input; used by several threads at a time."""

    def blocks(self, shard: Shard, rows: int) -> Iterator[Block]:
        """Yield the rows of *shard* in blocks of at most *rows*; filtered ones only as a number.

        Raises:
            InputChangedError: The file is not the one that was planned.
            InputError: The file is damaged.
        """


def open_source(uri: str, columns: Columns) -> Source:
    """Look at the input at *uri*.

    Args:
        uri: As `runtime.datasets.open_dataset` takes it.
        columns: What is wanted of it; an image column of ``None`` is found out.

    Raises:
        DatasetError: It does not exist, is empty, damaged, or no dataset.
        SchemaError: A column is missing, or files disagree about one.
        FilterError: The filter does not fit.
    """
    location, split = split_uri(uri)
    absolute = location if location == "digits" else absolute_uri(location)
    whole = f"{absolute}#{split}" if split else absolute
    if is_remote(absolute):
        return _parquet_source(whole, remote_parquet(Places(), absolute, split), columns)
    dataset = open_dataset(whole)
    if isinstance(dataset, ParquetDataset):
        return _parquet_source(whole, {str(path): None for path in dataset.files}, columns)
    schema = LABEL_SCHEMA if next(dataset.rows(0, 1)).label is not None else pa.schema([])
    if columns.image is not None:
        raise SchemaError(f"--image-column: {uri} is no Parquet and has no columns of images; leave the option out")
    _check_columns(schema, columns, uri)
    file = InputFile(path=dataset.uri, etag=dataset.fingerprint, groups=(RowGroup(len(dataset), 0),))
    return Source(uri=dataset.uri, reader="dataset", files=(file,), schema=schema, columns=columns)


def _check_columns(schema: pa.Schema, columns: Columns, uri: str) -> None:
    """Raise unless *schema* has what *columns* keeps and filters by."""
    asked = [("--keep", columns.keep)]
    if columns.filter is not None:
        asked.append(("--filter", Filter.parse(columns.filter).columns))
    for option, names in asked:
        if missing := [name for name in names if name not in schema.names]:
            has = ", ".join(schema.names) or "none"
            raise SchemaError(f"{option}: {uri} has no column {', '.join(map(repr, missing))}; its columns are: {has}")
    if columns.filter is not None:
        condition = Filter.parse(columns.filter)
        condition.expression(schema)
        if columns.image in condition.columns and not _is_text(schema.field(columns.image).type):
            raise FilterError(f"--filter cannot compare the images themselves (column {columns.image!r})")


# ---------------------------------------------------------------------------------- Parquet


def _parquet_source(uri: str, files: Mapping[str, Entry | None], columns: Columns) -> Source:
    """Return the input at *uri*, whose *files* by path or URL are known as far as a listing tells."""
    places, first_path = Places(), next(iter(files))
    with _footer(places, first_path, files[first_path]) as (_, file):
        first = file.schema_arrow
    image = _image_column(first, columns.image, first_path)
    found = Columns(image=image, keep=columns.keep, filter=columns.filter)
    _check_columns(first, found, uri)
    wanted = _read_columns(found)

    def look(path: str) -> InputFile:
        return _look_at(path, _footer(places, path, files[path]), first, wanted, first_path)

    with ThreadPoolExecutor(FOOTERS, thread_name_prefix="footer") as executor:
        seen = tuple(executor.map(look, files))
    return Source(uri=uri, reader="parquet", files=seen, schema=first, columns=found)


@contextmanager
def _footer(places: Places, path: str, entry: Entry | None) -> Iterator[tuple[Entry, pq.ParquetFile]]:
    """Open the file at *path*; of its content only the footer is read.

    Raises:
        DatasetError: It is gone, no Parquet file, or its footer is damaged.
    """
    try:
        opened = places.reader(path, entry)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    with closing(opened), open_footer(path, opened.source) as file:
        yield opened.entry, file


def _image_column(schema: pa.Schema, wanted: str | None, where: str) -> str:
    """Return the image column; one asked for by name may also hold paths."""
    if wanted is not None and wanted in schema.names and _is_text(schema.field(wanted).type):
        return wanted
    try:
        return find_image_column(schema, wanted, where)
    except DatasetError as error:
        raise SchemaError(str(error)) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _read_columns(columns: Columns) -> tuple[str, ...]:
    """Return every column that is read, each once."""
    by_filter = Filter.parse(columns.filter).columns if columns.filter else ()
    image = (columns.image,) if columns.image else ()
    return tuple(dict.fromkeys((*image, *columns.keep, *by_filter)))


def _look_at(
    path: str,
    footer: AbstractContextManager[tuple[Entry, pq.ParquetFile]],
    first: pa.Schema,
    wanted: Sequence[str],
    first_path: str,
) -> InputFile:
    """Return *path* as it is now; its columns must be those of the *first* file."""
    with footer as (entry, file):
        schema, metadata = file.schema_arrow, file.metadata
        for name in wanted:
            kind = schema.field(name).type if name in schema.names else None
            if kind != first.field(name).type:
                found = "is missing" if kind is None else f"is {kind}"
                raise SchemaError(
                    f"{path}: column {name!r} {found}; in {first_path} it is {first.field(name).type}; "
                    "all files of one input must agree"
                )
        groups = tuple(_row_group(metadata.row_group(index), wanted) for index in range(metadata.num_row_groups))
    return InputFile(path=path, etag=entry.etag, groups=groups)


def _row_group(metadata: Any, wanted: Sequence[str]) -> RowGroup:
    chunks = (metadata.column(index) for index in range(metadata.num_columns))
    size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in wanted)
    return RowGroup(rows=metadata.num_rows, size=size)


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

    def blocks(self, shard: Shard, rows: int) -> Iterator[Block]:
        """Yield the rows of *shard*; see `Reader`."""
        with closing(self._opened(shard)) as file:
            try:
                with pq.ParquetFile(file.source, pre_buffer=False, buffer_size=READ_BUFFER) as parquet:
                    ranges = column_ranges(parquet.metadata, range(*shard.groups), list(_read_columns(self.columns)))
                    file.expect(ranges)
                    for block, images in self._fetcher.ahead(self._blocks(parquet, shard, rows)):
                        yield replace(block, images=images)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise
                raise InputError(
                    f"{shard.path}: rows {shard.start}-{shard.stop - 1} cannot be read: {' '.join(str(error).split())}"
                ) from None
            if not file.unchanged():
                raise _changed(shard)

    def _opened(self, shard: Shard) -> OpenFile:
        """Open the file of *shard*, which must be the one that was planned."""
        try:
            file = self._places.reader(shard.path)
        except OSError as error:
            raise InputChangedError(f"{shard.path} cannot be read any more: {error.strerror or 'it is gone'}") from None
        if file.entry.etag != shard.etag:
            raise _changed(shard)
        return file

    def _blocks(self, file: pq.ParquetFile, shard: Shard, rows: int) -> Iterator[_Unfetched]:
        matching = self._matching(file, shard)
        if matching is not None and len(matching) == 0:
            yield self._empty(file, shard.rows)
            return
        wanted = list(dict.fromkeys(filter(None, (self.columns.image, *self.columns.keep))))
        pending, filtered = [], 0
        for start, batch in _ranges(file, shard, wanted, rows):
            picked = batch
            numbers = np.arange(start, start + batch.num_rows)
            if matching is not None:
                numbers = np.intersect1d(numbers, matching, assume_unique=True)
                picked = batch.take(pa.array(numbers - start))
                filtered += batch.num_rows - len(numbers)
            pending.append((numbers, picked))
            if sum(len(numbers) for numbers, _ in pending) > rows:
                yield self._block(shard, pending[:-1], filtered)
                pending, filtered = pending[-1:], 0
        yield self._block(shard, pending, filtered)

    def _matching(self, file: pq.ParquetFile, shard: Shard) -> npt.NDArray[np.int64] | None:
        """Return the numbers (ascending) of the shard's rows that match the filter; ``None`` if there is no filter."""
        if self.columns.filter is None:
            return None
        condition = Filter.parse(self.columns.filter)
        expression = condition.expression(file.schema_arrow)
        found = [np.empty(0, np.int64)]
        for start, batch in _ranges(file, shard, list(condition.columns), FILTER_ROWS):
            table = pa.Table.from_batches([batch])
            # The number of the row goes last, so that no column of the input can hide it.
            numbered = table.append_column("", pa.array(np.arange(start, start + batch.num_rows)))
            found.append(numbered.filter(expression).column(table.num_columns).to_numpy())
        return np.concatenate(found)

    def _block(
        self, shard: Shard, parts: Sequence[tuple[npt.NDArray[np.int64], pa.RecordBatch]], filtered: int
    ) -> _Unfetched:
        table = pa.Table.from_batches([batch for _, batch in parts])
        numbers = np.concatenate([numbers for numbers, _ in parts]).tolist()
        cells = table.column(self.columns.image).to_pylist()
        block = Block(
            images=(),  # until they are fetched
            source_files=[shard.path] * len(numbers),
            source_rows=numbers,
            kept=table.select(list(self.columns.keep)),
            filtered=filtered,
        )
        return block, [_image_of(cell, shard.path) for cell in cells]

    def _empty(self, file: pq.ParquetFile, filtered: int) -> _Unfetched:
        kept = file.schema_arrow.empty_table().select(list(self.columns.keep))
        return Block(images=(), source_files=[], source_rows=[], kept=kept, filtered=filtered), []


def _ranges(file: pq.ParquetFile, shard: Shard, columns: list[str], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (number of its first row in the file, batch) for the shard's rows and no others."""
    position = shard.group_start
    for batch in file.iter_batches(batch_size=rows, row_groups=range(*shard.groups), columns=columns):
        first = max(position, shard.start)
        last = min(position + batch.num_rows, shard.stop)
        if first < last:
            yield first, batch.slice(first - position, last - first)
        position += batch.num_rows
        if position >= shard.stop:
            return


def _changed(shard: Shard) -> InputChangedError:
    return InputChangedError(
        f"{shard.path} changed after the job was planned; put the old file back, or write to a new output"
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

    def blocks(self, shard: Shard, rows: int) -> Iterator[Block]:
        """Yield the rows of *shard*; see `Reader`."""
        dataset = self._open(shard)
        condition = Filter.parse(self.columns.filter).expression(LABEL_SCHEMA) if self.columns.filter else None
        for start in range(shard.start, shard.stop, rows):
            stop = min(start + rows, shard.stop)
            yield self._block(list(dataset.rows(start, stop)), condition)

    def _open(self, shard: Shard) -> Dataset:
        if shard.path not in self._opened:
            self._opened[shard.path] = open_dataset(shard.path)
        dataset = self._opened[shard.path]
        if dataset.fingerprint != shard.etag:
            raise InputChangedError(
                f"{shard.path} changed after the job was planned; put the old files back, or write to a new output"
            )
        return dataset

    def _block(self, rows: Sequence[Row], condition: Any) -> Block:
        labels = pa.table({"label": pa.array([row.label for row in rows], pa.int64())})
        numbered = labels.append_column("", pa.array(np.arange(len(rows))))
        picked = numbered if condition is None else numbered.filter(condition)
        chosen = [rows[index] for index in picked.column(1).to_pylist()]
        return Block(
            images=[row.image for row in chosen],
            source_files=[row.source_file for row in chosen],
            source_rows=[row.source_row for row in chosen],
            kept=picked.select(list(self.columns.keep)),
            filtered=len(rows) - len(chosen),
        )


def _dataset_reader(columns: Columns, _: FetchLimits = FETCH_LIMITS) -> Reader:
    return DatasetReader(columns)


READERS: Mapping[str, Callable[..., Reader]] = {"parquet": ParquetReader, "dataset": _dataset_reader}
"""By `Shard.reader`; a new form of input is a new entry."""
