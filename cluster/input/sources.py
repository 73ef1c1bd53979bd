"""What the driver learns of an input: its files, their row groups and columns.

Rules:
    * Footers only are read, several at a time. Parquet keeps its row groups and columns; every other
      dataset form is one range of rows, with the column ``label`` if it has labels.
    * What the files say is all that a plan is made of (`cluster.plan`); `cluster.input.readers` reads the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import FilterError, SchemaError
from cluster.input.filters import Filter
from cluster.input.sampling import Sample
from cluster.plan import InputFile, RowGroup
from cluster.storage import Entry, absolute_uri, is_remote
from cluster.storage.inputs import Places, remote_parquet
from runtime.datasets import open_dataset, split_uri
from runtime.datasets.parquet import ParquetDataset, find_image_column, open_footer
from runtime.errors import DatasetError

__all__ = ["LABEL_SCHEMA", "Columns", "Source", "open_source", "read_columns"]

LABEL_SCHEMA = pa.schema([pa.field("label", pa.int64())])
FOOTERS = 16  # read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns a job reads, and of which rows.

    Attributes:
        image: Holds the images; ``None`` for forms that have no columns.
        keep: Pass through to the output.
        filter: Text of the ``--filter`` expression.
        sample: The rows that are taken at all, before the filter; all if ``None``.
    """

    image: str | None
    keep: tuple[str, ...] = ()
    filter: str | None = None
    sample: Sample | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the driver knows of an input.

    Attributes:
        uri: Where it is; absolute.
        reader: Key of the reader in `cluster.input.readers.READERS`.
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
    asked = [("--keep, --evaluate", columns.keep)]
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
    found = Columns(image=image, keep=columns.keep, filter=columns.filter, sample=columns.sample)
    _check_columns(first, found, uri)
    wanted = read_columns(found)

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


def read_columns(columns: Columns) -> tuple[str, ...]:
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
