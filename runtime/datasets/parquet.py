"""Parquet with an image column, and the writing of it.

Rules:
    * The image column is the one asked for, otherwise ``image``, otherwise the only one that can be.
    * It is binary, large_binary, or Hugging Face's ``struct<bytes, path>``.
    * What is known of the images is in the column asked for, otherwise in the first of `LABEL_COLUMNS` that there is.
      Its type says what it holds: integers are classes, a struct with ``bbox`` objects, images masks.
    * Row groups are streamed page by page, never read whole; checksums of pages are verified where
      there are some.
    * What is written has Hugging Face's layout and feature metadata, so that `datasets` reads it too;
      its pages are small and have checksums, and it is there whole and durable, or not at all.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from runtime.datasets.base import Dataset, Row, file_fingerprint
from runtime.datasets.objects import Objects
from runtime.errors import DatasetError
from runtime.files import replacing

__all__ = ["ParquetDataset", "find_image_column", "image_bytes", "label_names_of", "open_footer", "write_parquet"]

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


def open_footer(path: Path) -> pq.ParquetFile:
    """Return the Parquet file at *path*, of which only the footer was read.

    Raises:
        DatasetError: It is no Parquet file, or its footer is damaged.
    """
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BUFFER, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise DatasetError(f"{path} does not exist") from None
        raise DatasetError(f"{path} is not a readable Parquet file: {' '.join(str(error).split())}") from None


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return names.count("bytes") == 1 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
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


def _holds_objects(kind: Any) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind)) and {"bbox", "category"} <= {field.name for field in kind}


LABELS: Mapping[str, tuple[Callable[[Any], bool], Callable[[Any, str], Mapping[str, Any]]]] = {
    "label": (lambda kind: bool(pa.types.is_integer(kind)), lambda cell, _: {"label": cell}),
    "objects": (_holds_objects, lambda cell, where: {"label": None, "objects": Objects.of_cell(cell, where)}),
    "mask": (_holds_images, lambda cell, _: {"label": None, "mask": image_bytes(cell)}),
}
"""By what a column of labels holds: whether a type is of it, and the fields of the `Row` that a cell becomes."""


def _find_label_column(schema: Any, image_column: str | None) -> str | None:
    """Return the first of `LABEL_COLUMNS` in *schema* that holds labels, whatever ``label`` holds; ``None``: none."""
    for name in LABEL_COLUMNS:
        if name in schema.names and name != image_column:
            kind = schema.field(name).type
            if name == "label" or any(fits(kind) for fits, _ in LABELS.values()):
                return name
    return None


def _kind_of_labels(schema: Any, label: str, path: Path) -> str:
    """Return which of `LABELS` the column *label* holds.

    Raises:
        DatasetError: It is not there, or holds none of them.
    """
    if label not in schema.names:
        raise DatasetError(f"{path} has no column {label!r}; its columns are: {', '.join(schema.names)}")
    kind = schema.field(label).type
    for name, (fits, _) in LABELS.items():
        if fits(kind):
            return name
    raise DatasetError(
        f"{path}: label column {label!r} is {kind}; expected integers, struct<bbox, category>, or images of masks"
    )


def _group_rows(
    file: pq.ParquetFile, group: int, number: int, columns: tuple[str, str | None], path: Path
) -> Iterator[Row]:
    image, label = columns
    wanted = [name for name in columns if name]
    read = LABELS[_kind_of_labels(file.schema_arrow, label, path)][1] if label else _no_label
    try:
        for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=wanted):
            labels = batch.column(label).to_pylist() if label else [None] * batch.num_rows
            for cell, value in zip(batch.column(image), labels, strict=True):
                known = read(value, f"{path}, row {number}")
                yield Row(image=image_bytes(cell.as_py()), source_file=str(path), source_row=number, **known)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}, row group {group}: {' '.join(str(error).split())}") from None


def _no_label(_: Any, __: str) -> Mapping[str, Any]:
    return {"label": None}


def _encoded(row: Row) -> bytes | None:
    if isinstance(row.image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(row.image).save(buffer, "PNG")
        return buffer.getvalue()
    return row.image


def write_parquet(
    dataset: Dataset,
    path: Path,
    *,
    row_group_rows: int = ROW_GROUP_ROWS,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Write *dataset* to *path*, atomically, in Hugging Face's layout; return the number of rows.

    Raw images are stored as PNG, encoded ones as they are. Columns: ``image`` struct<bytes, path>
    and ``label`` int64, the latter null where a row has none.

    Args:
        dataset: To write.
        path: The file, replaced when all was written.
        row_group_rows: At most so many in a row group; fewer where images are big.
        advance: Told of each number of rows that were written.
    """
    schema, count = _schema(dataset), 0
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
        for group in _groups(dataset, row_group_rows):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
            advance(len(group))
    return count


def _schema(dataset: Dataset) -> Any:
    label: dict[str, Any] = {"_type": "Value", "dtype": "int64"}
    if dataset.label_names:
        label = {"_type": "ClassLabel", "names": list(dataset.label_names)}
    image_type = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": label}
    return pa.schema(
        [("image", image_type), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def _groups(dataset: Dataset, rows: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of *dataset* as they are written, by row group."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in dataset.rows():
        data = _encoded(row)
        group.append(
            {"image": {"bytes": data, "path": f"{Path(row.source_file).name}#{row.source_row}"}, "label": row.label}
        )
        size += len(data or b"")
        if len(group) == rows or size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
