"""Parquet with an image column, and the writing of it.

Rules:
    * The image column is the one asked for, otherwise ``image``, otherwise the only one that can be.
    * It is binary, large_binary, or Hugging Face's ``struct<bytes, path>``.
    * Row groups are streamed (`ParquetFile.iter_batches`), never read whole.
    * What is written has Hugging Face's layout and feature metadata, so that `datasets` reads it too.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from runtime.datasets.base import Dataset, Row, file_fingerprint
from runtime.errors import DatasetError

__all__ = ["ParquetDataset", "find_image_column", "image_bytes", "label_names_of", "open_footer", "write_parquet"]

READ_ROWS = 256  # rows of images in memory at a time
ROW_GROUP_ROWS = 1000


def open_footer(path: Path) -> pq.ParquetFile:
    """Return the Parquet file at *path*, of which only the footer was read.

    Raises:
        DatasetError: It is no Parquet file, or its footer is damaged.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise DatasetError(f"{path} does not exist") from None
        raise DatasetError(f"{path} is not a readable Parquet file: {' '.join(str(error).split())}") from None


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


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
        if not _holds_images(schema.field(wanted).type):
            raise DatasetError(
                f"{where}: column {wanted!r} is {schema.field(wanted).type}; expected binary or struct<bytes, path>"
            )
        return wanted
    found = [field.name for field in schema if _holds_images(field.type)]
    if "image" in found:
        return "image"
    if len(found) == 1:
        return str(found[0])
    problem = "no image column" if not found else f"{len(found)} columns that can hold images ({', '.join(found)})"
    raise DatasetError(f"{where} has {problem}; name it with --image-column; its columns are: {columns}")


def image_bytes(value: Any) -> bytes | None:
    """Return the bytes in one cell (as Python object) of an image column."""
    return value.get("bytes") if isinstance(value, dict) else value


def label_names_of(schema: Any, column: str) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's metadata gives for *column*, if it does."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
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
        return open_footer(self.files[0]).schema_arrow

    @cached_property
    def _columns(self) -> tuple[str, str | None]:
        """The names of the image column and of the label column."""
        image = find_image_column(self._first, self.image_column, str(self.files[0]))
        label = self.label_column or ("label" if "label" in self._first.names else None)
        if label is not None:
            self._check_label(label)
        return image, label

    def _check_label(self, label: str) -> None:
        columns = ", ".join(self._first.names)
        if label not in self._first.names:
            raise DatasetError(f"{self.files[0]} has no column {label!r}; its columns are: {columns}")
        kind = self._first.field(label).type
        if not pa.types.is_integer(kind):
            raise DatasetError(f"{self.files[0]}: label column {label!r} is {kind}; expected integers")

    @cached_property
    def _row_counts(self) -> tuple[int, ...]:
        return tuple(open_footer(file).metadata.num_rows for file in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes and modification times of the files."""
        return file_fingerprint(self.files)

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """The class names in Hugging Face's metadata, if there are some."""
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
        file = open_footer(path)
        for name in filter(None, (image, label)):
            if name not in file.schema_arrow.names:
                raise DatasetError(f"{path} has no column {name!r}; {self.files[0]} has it")
        group_start = 0
        for group in range(file.num_row_groups):
            group_rows = file.metadata.row_group(group).num_rows
            if group_start < last and group_start + group_rows > first:
                for row in _group_rows(file, group, group_start, (image, label), path):
                    if first <= row.source_row < last:
                        yield row
            group_start += group_rows


def _group_rows(
    file: pq.ParquetFile, group: int, number: int, columns: tuple[str, str | None], path: Path
) -> Iterator[Row]:
    image, label = columns
    wanted = [name for name in columns if name]
    try:
        for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=wanted):
            labels = batch.column(label).to_pylist() if label else [None] * batch.num_rows
            for cell, value in zip(batch.column(image), labels, strict=True):
                yield Row(image=image_bytes(cell.as_py()), label=value, source_file=str(path), source_row=number)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}, row group {group}: {' '.join(str(error).split())}") from None


def _encoded(row: Row) -> bytes | None:
    if isinstance(row.image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(row.image).save(buffer, "PNG")
        return buffer.getvalue()
    return row.image


def write_parquet(dataset: Dataset, path: Path, *, row_group_rows: int = ROW_GROUP_ROWS) -> int:
    """Write *dataset* to *path*, atomically, in Hugging Face's layout; return the number of rows.

    Raw images are stored as PNG, encoded ones as they are. Columns: ``image`` struct<bytes, path>
    and ``label`` int64, the latter null where a row has none.
    """
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if dataset.label_names:
        features["label"] = {"_type": "ClassLabel", "names": list(dataset.label_names)}
    else:
        features["label"] = {"_type": "Value", "dtype": "int64"}
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image_type), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as writer:
            count = sum(_write_group(writer, schema, group) for group in _groups(dataset, row_group_rows))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _groups(dataset: Dataset, size: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in dataset.rows():
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _write_group(writer: pq.ParquetWriter, schema: Any, rows: list[Row]) -> int:
    cells = [{"bytes": _encoded(row), "path": f"{Path(row.source_file).name}#{row.source_row}"} for row in rows]
    writer.write_table(pa.table({"image": cells, "label": [row.label for row in rows]}, schema=schema))
    return len(rows)
