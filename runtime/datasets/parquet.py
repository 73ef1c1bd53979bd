"""Parquet with an image column, and the writing of it.

Rules:
    * The image column is the one asked for, otherwise ``image``, otherwise the only one that can be.
    * It is binary, large_binary, or Hugging Face's ``struct<bytes, path>``.
    * What is known of the images is in the column asked for, otherwise in the first of `LABEL_COLUMNS` that there is;
      `runtime.datasets.known` says what it may hold.
    * Row groups are streamed page by page, never read whole; checksums of pages are verified where
      there are some.
    * What is written has Hugging Face's layout and feature metadata, so that `datasets` reads it too;
      its pages are small and have checksums, and it is there whole and durable, or not at all.
    * Everything that the rows know is written: what has no column because the first row group did not know it is an
      error, never left out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from runtime.datasets.base import Dataset, Row, file_fingerprint
from runtime.datasets.known import (
    IMAGE,
    IMAGE_FEATURE,
    KNOWN,
    SIZE_COLUMNS,
    Known,
    holds_images,
    image_bytes,
    with_size,
)
from runtime.errors import DatasetError
from runtime.files import replacing

__all__ = [
    "ParquetDataset",
    "Written",
    "find_image_column",
    "label_names_of",
    "open_footer",
    "size_columns",
    "write_parquet",
]

LABEL_COLUMNS = ("label", "objects", "mask", "annotation", "segmentation")
NAME_PATHS: Sequence[tuple[str, ...]] = (
    (),
    ("category", "feature"),
    ("feature", "category"),
    ("feature", "category", "feature"),
)
"""Where a column's feature has the names of its classes: of integers, of a struct of lists, of a list of structs."""
READ_ROWS = 64  # rows of images in memory at a time
READ_BUFFER = 1 << 20  # bytes
ROW_GROUP_ROWS = 1000
ROW_GROUP_BYTES = 1 << 27  # of images, before a row group ends early
PAGE_ROWS = 16  # pages end only at multiples of it; a page is the least that a reader holds in memory


def open_footer(path: Path | str, source: Any = None) -> pq.ParquetFile:
    """Return the Parquet file at *path*, of which only the footer was read.

    Args:
        path: Where it is.
        source: What to read it by, where that is not the file at *path* itself.

    Raises:
        DatasetError: It is no Parquet file, or its footer is damaged.
    """
    try:
        opened = source or path
        return pq.ParquetFile(opened, pre_buffer=False, buffer_size=READ_BUFFER, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise DatasetError(f"{path} does not exist") from None
        raise DatasetError(f"{path} is not a readable Parquet file: {' '.join(str(error).split())}") from None


def find_image_column(schema: Any, wanted: str | None, where: str) -> str:
    """Return the name of the image column of a Parquet *schema*.

    Raises:
        DatasetError: The column *wanted* is not there or holds no images; or none was asked for and
            it is not clear which one is meant.
    """
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    if wanted is not None:
        if wanted not in schema.names:
            raise DatasetError(f"{where} has no column {wanted!r}; its columns are: {columns}")
        if not holds_images(schema.field(wanted).type):
            raise DatasetError(
                f"{where}: column {wanted!r} is {schema.field(wanted).type}; expected binary or struct<bytes, path>"
            )
        return wanted
    found = [field.name for field in schema if holds_images(field.type)]
    if "image" in found:
        return "image"
    if len(found) == 1:
        return str(found[0])
    problem = "no image column" if not found else f"{len(found)} columns that can hold images ({', '.join(found)})"
    raise DatasetError(f"{where} has {problem}; name it with --image-column; its columns are: {columns}")


def label_names_of(schema: Any, column: str) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's metadata gives for *column*, if it does."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return None
    return next((names for path in NAME_PATHS if (names := _names_at(feature, path)) is not None), None)


def _names_at(feature: Any, path: Sequence[str]) -> tuple[str, ...] | None:
    try:
        for key in path:
            feature = feature[key]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError):
        return None


@dataclass(frozen=True)
class ParquetDataset:
    """One Parquet file, or all of a directory in the order of their names."""

    uri: str
    files: tuple[Path, ...]
    image_column: str | None = None
    label_column: str | None = None

    @cached_property
    def _first(self) -> Any:
        with open_footer(self.files[0]) as file:
            return file.schema_arrow

    @cached_property
    def _columns(self) -> tuple[str, str | None]:
        """The names of the image column and of the column of labels."""
        label = self.label_column or _find_label_column(self._first, self.image_column)
        schema = self._first
        if label is not None and _kind_of_labels(schema, label, self.files[0]) == "mask":
            schema = schema.remove(schema.get_field_index(label))
        return find_image_column(schema, self.image_column, str(self.files[0])), label

    @cached_property
    def _row_counts(self) -> tuple[int, ...]:
        return tuple(map(_row_count, self.files))

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes and modification times of the files."""
        return file_fingerprint(self.files)

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of classes (of images or objects) in Hugging Face's metadata, if there are some."""
        label = self._columns[1]
        return label_names_of(self._first, label) if label else None

    def __len__(self) -> int:
        return sum(self._row_counts)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the rows from *start* up to, not including, *stop*; row groups outside are not read.

        Raises:
            DatasetError: A file is damaged or lacks a column.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        offset = 0
        for file, count in zip(self.files, self._row_counts, strict=True):
            first, last = max(start - offset, 0), min(stop - offset, count)
            if first < last:
                yield from self._file_rows(file, first, last)
            offset += count

    def _file_rows(self, path: Path, first: int, last: int) -> Iterator[Row]:
        image, label = self._columns
        with open_footer(path) as file:
            find_image_column(file.schema_arrow, image, str(path))
            if label is not None:
                _kind_of_labels(file.schema_arrow, label, path)
            group_start = 0
            for group in range(file.num_row_groups):
                group_rows = file.metadata.row_group(group).num_rows
                if group_start < last and group_start + group_rows > first:
                    rows = _group_rows(file, group, group_start, (image, label), path)
                    yield from islice(rows, max(first - group_start, 0), last - group_start)
                group_start += group_rows


def _row_count(path: Path) -> int:
    with open_footer(path) as file:
        return int(file.metadata.num_rows)


def _find_label_column(schema: Any, image_column: str | None) -> str | None:
    """Return the first of `LABEL_COLUMNS` in *schema* that holds labels, whatever ``label`` holds; ``None``: none."""
    for name in LABEL_COLUMNS:
        if name in schema.names and name != image_column:
            kind = schema.field(name).type
            if name == "label" or any(known.fits(kind) for known in KNOWN.values()):
                return name
    return None


def _kind_of_labels(schema: Any, label: str, path: Path) -> str:
    """Return which of `KNOWN` the column *label* holds.

    Raises:
        DatasetError: It is not there, or holds none of them.
    """
    if label not in schema.names:
        raise DatasetError(f"{path} has no column {label!r}; its columns are: {', '.join(schema.names)}")
    kind = schema.field(label).type
    for name, known in KNOWN.items():
        if known.fits(kind):
            return name
    raise DatasetError(
        f"{path}: label column {label!r} is {kind}; expected integers, struct<bbox, category>, or images of masks"
    )


def size_columns(schema: Any, kind: str | None) -> tuple[str, ...]:
    """Return the columns with the size of the picture that objects were drawn on; none if there are not both."""
    both = all(name in schema.names and pa.types.is_integer(schema.field(name).type) for name in SIZE_COLUMNS)
    return SIZE_COLUMNS if kind == "objects" and both else ()


def _group_rows(
    file: pq.ParquetFile, group: int, number: int, columns: tuple[str, str | None], path: Path
) -> Iterator[Row]:
    image, label = columns
    kind = _kind_of_labels(file.schema_arrow, label, path) if label else None
    size = size_columns(file.schema_arrow, kind)
    wanted = [name for name in (*columns, *size) if name]
    try:
        for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=wanted):
            labels = batch.column(label).to_pylist() if label else [None] * batch.num_rows
            sizes = zip(*(batch.column(name).to_pylist() for name in size), strict=True) if size else repeat(())
            for cell, value, drawn in zip(batch.column(image), labels, sizes, strict=False):
                known = dict(KNOWN[kind].read(value, f"{path}, row {number}") if kind else {"label": None})
                if size:
                    known["objects"] = with_size(known["objects"], drawn)
                yield Row(image=image_bytes(cell.as_py()), source_file=str(path), source_row=number, **known)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}, row group {group}: {' '.join(str(error).split())}") from None


def _encoded(row: Row) -> bytes | None:
    if isinstance(row.image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(row.image).save(buffer, "PNG")
        return buffer.getvalue()
    return row.image


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written.

    Attributes:
        rows: How many.
        columns: Names of the columns, in order.
    """

    rows: int
    columns: tuple[str, ...]


def write_parquet(
    dataset: Dataset,
    path: Path,
    *,
    row_group_rows: int = ROW_GROUP_ROWS,
    advance: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write *dataset* to *path*, atomically, in Hugging Face's layout.

    Raw images are stored as PNG, encoded ones as they are. Columns: ``image`` struct<bytes, path>, and what the first
    row group knows of `KNOWN`: ``label`` int64 (that one too where nothing is known, all null), ``objects``
    list<struct>, ``mask`` struct<bytes, path>; beside objects ``height`` and ``width`` of the picture.

    Args:
        dataset: To write.
        path: The file, replaced when all was written.
        row_group_rows: At most so many in a row group; fewer where images are big.
        advance: Told of each number of rows that were written.

    Raises:
        DatasetError: A later row knows what the first row group does not, and so would lose it.
    """
    groups = _groups(dataset, row_group_rows)
    first = next(groups, [])
    kinds = tuple(name for name in KNOWN if any(_knows(row, name) for row in first)) or ("label",)
    schema, count = _schema(dataset, kinds), 0
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression="none",
            use_dictionary=False,
            write_batch_size=PAGE_ROWS,
            write_page_checksum=True,
        ) as writer,
    ):
        for group in chain([first], groups):
            writer.write_table(pa.Table.from_pylist([_cells(row, kinds) for row in group], schema=schema))
            count += len(group)
            advance(len(group))
    return Written(rows=count, columns=tuple(schema.names))


def _knows(row: Row, kind: str) -> bool:
    return getattr(row, kind) is not None


def _schema(dataset: Dataset, kinds: Sequence[str]) -> Any:
    known: Mapping[str, Known] = {name: KNOWN[name] for name in kinds}
    fields = [("image", IMAGE), *((name, one.kind) for name, one in known.items())]
    features = {"image": IMAGE_FEATURE} | {name: one.feature(dataset.label_names) for name, one in known.items()}
    if "objects" in known:
        fields += [(name, pa.int32()) for name in SIZE_COLUMNS]
        features |= {name: {"_type": "Value", "dtype": "int32"} for name in SIZE_COLUMNS}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _cells(row: Row, kinds: Sequence[str]) -> dict[str, Any]:
    """Return *row* as it is written."""
    where = f"{row.source_file}, row {row.source_row}"
    if lost := [name for name in KNOWN if name not in kinds and _knows(row, name)]:
        raise DatasetError(f"{where} has {', '.join(lost)}, which the rows before have not; expected the same of all")
    cells: dict[str, Any] = {name: KNOWN[name].cell(row) for name in kinds}
    if row.objects is not None and row.objects.size is not None:
        cells |= dict(zip(SIZE_COLUMNS, row.objects.size, strict=True))
    return cells | {
        "image": {"bytes": row.image, "path": f"{Path(row.source_file).name}#{row.source_row}"},
    }


def _groups(dataset: Dataset, rows: int) -> Iterator[list[Row]]:
    """Yield the rows of *dataset*, encoded, by row group."""
    group: list[Row] = []
    size = 0
    for row in dataset.rows():
        data = _encoded(row)
        group.append(replace(row, image=data))
        size += len(data or b"") + len(row.mask or b"")
        if len(group) == rows or size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
