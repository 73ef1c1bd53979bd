"""The column of labels that answers are judged by, and a look at it before anything runs.

Rules:
    * A column's type says what it holds: classes by index or by name, objects, or masks; the task says which of them it
      takes (docs/evaluation.md). A class by name is a text; an index means the name that Hugging Face's metadata has.
    * A null is a row without a label.
    * Before the job some rows of up to `PLACES` row groups are read, of those that sample and filter take: a class that
      the model does not have, or a mask of another size, ends the job before it began. What they do not show is found
      when the answers are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import InputError, SchemaError
from cluster.input.filters import Filter
from cluster.input.sources import Source
from cluster.storage.inputs import Places
from runtime.datasets import Row, open_dataset
from runtime.datasets.known import KNOWN, image_bytes, with_size
from runtime.datasets.parquet import label_names_of, size_columns
from runtime.errors import DatasetError, ImageError
from runtime.evaluation.label_map import LabelMap, by_name
from runtime.evaluation.metrics import METRICS, TruthKind
from runtime.evaluation.truth import Truths
from runtime.images import load
from runtime.manifest import Manifest
from runtime.tasks import head_of

__all__ = ["ClassIds", "LabelColumn", "check_evaluable"]

Holds = Literal["text", "label", "objects", "mask"]
Ids = npt.NDArray[np.int64]

PLACES = 8  # row groups that are looked at
LOOKED_AT: Mapping[Holds, int] = {"text": 4096, "label": 4096, "objects": 256, "mask": 4}  # rows of each
PICTURES = 4  # of each row group, whose size is compared
MOST_NAMED = 5


def _values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(_values(kind)) or pa.types.is_large_string(_values(kind)))


FITS: Mapping[Holds, Callable[[pa.DataType], bool]] = {
    "text": _is_text,
    "label": lambda kind: bool(pa.types.is_integer(_values(kind))),
    "objects": KNOWN["objects"].fits,
    "mask": KNOWN["mask"].fits,
}
"""Whether a column of an Arrow type holds it."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a kind of truth is read from: what a column may hold, one of which fields of objects, and both in words."""

    holds: tuple[Holds, ...]
    fields: tuple[str, ...]
    words: str


_OUTLINES = ("segmentation", "rle")
_OBJECTS = "struct<bbox, category>, or a list of such"
_MASKS = f"images of masks as binary or struct<bytes, path>, or objects with {' or '.join(_OUTLINES)}"
WANTED: Mapping[TruthKind, _Wanted] = {
    "label": _Wanted(("text", "label"), (), "class names or indices"),
    "objects": _Wanted(("objects",), (), _OBJECTS),
    "outlines": _Wanted(("objects",), _OUTLINES, f"{_OBJECTS}, with {' or '.join(_OUTLINES)}"),
    "keypoints": _Wanted(("objects",), ("keypoints",), f"{_OBJECTS}, with keypoints"),
    "mask": _Wanted(("mask", "objects"), _OUTLINES, _MASKS),
    "matte": _Wanted(("mask", "objects"), _OUTLINES, _MASKS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumn:
    """A column of labels.

    Attributes:
        column: What the input calls it.
        holds: What it holds.
        truth: The kind of truth that is read from it.
        label_names: Of the classes by index, where the input's metadata has them.
        uri: Of the input; what errors call it.
    """

    column: str
    holds: Holds
    truth: TruthKind
    label_names: tuple[str, ...] | None
    uri: str

    @classmethod
    def of(cls, manifest: Manifest, source: Source, column: str) -> Self:
        """Return the *column* of *source*, by which the model of *manifest* is to be judged.

        Raises:
            SchemaError: It cannot hold what the model's task is judged by.
            ModelError: This version of Vedette does not know the model's head.
        """
        truth = METRICS[head_of(manifest).result].truth
        kind, wanted = source.schema.field(column).type, WANTED[truth]
        holds = next((one for one in wanted.holds if FITS[one](kind)), None)
        if holds is None or (holds == "objects" and wanted.fields and not _fields(kind).intersection(wanted.fields)):
            raise SchemaError(
                f"--evaluate: column {column!r} is {kind}; {manifest.reference} is for {manifest.task}, "
                f"expected {wanted.words}"
            )
        return cls(column=column, holds=holds, truth=truth, label_names=_names(source, column), uri=source.uri)

    def row(self, cell: Any, source_file: str, source_row: int) -> Row | None:
        """Return what *cell* (as Python object) says of a row of the input; ``None`` where it says nothing.

        Raises:
            DatasetError: It says what cannot be.
        """
        if cell is None:
            return None
        where = f"{source_file}, row {source_row}"
        if self.holds == "mask" and image_bytes(cell) is None:
            if isinstance(cell, Mapping) and cell.get("path"):
                raise DatasetError(f"{where}: the mask is a path, {cell['path']!r}; expected its bytes")
            return None
        known = {"label": None, **KNOWN[self.holds].read(cell, where)}
        return Row(image=None, source_file=source_file, source_row=source_row, **known)

    def failed(self, error: DatasetError | str) -> SchemaError:
        """Return *error* as one that names the column."""
        return SchemaError(f"--evaluate {self.column}: {error}")


def _fields(kind: pa.DataType) -> set[str]:
    """Return the names of the fields of objects in a column of type *kind*."""
    struct = kind if pa.types.is_struct(kind) else kind.value_type
    return {one.name for one in struct}


def _names(source: Source, column: str) -> tuple[str, ...] | None:
    if source.reader == "parquet":
        return label_names_of(source.schema, column)
    return open_dataset(source.uri).label_names


class ClassIds:
    """From the labels in a column of classes to the model's.

    Args:
        column: That holds them, as text or as indices.
        classes: Of indices.
        labels: Of the model.
    """

    def __init__(self, column: LabelColumn, classes: LabelMap, labels: tuple[str, ...]) -> None:
        self._column, self._classes, self._labels = column, classes, labels

    def __call__(self, values: pa.Array) -> Ids:
        """Return the model's classes of *values*, (n,), -1 for null.

        Raises:
            SchemaError: One is no class of the model.
        """
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        distinct = values.dictionary_encode()
        if self._column.holds == "text":
            found = by_name(distinct.dictionary.to_pylist(), self._labels)
            names = [repr(one.as_py()) for one in distinct.dictionary.filter(pa.array(found < 0))]
        else:
            numbers = distinct.dictionary.cast(pa.int64()).to_numpy(zero_copy_only=False)
            found = self._classes(numbers)
            found = np.where(found < len(self._labels), found, -1)
            names = [self._classes.name(int(one)) for one in numbers[found < 0]]
        if names:
            several = f"{', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''}"
            known = f"{', '.join(self._labels[:MOST_NAMED])}{', ...' if len(self._labels) > MOST_NAMED else ''}"
            are = "are no classes" if len(names) > 1 else "is no class"
            raise self._column.failed(
                f"{several} {are} of the model, or of more than one name; it has {len(self._labels)}: {known}"
            )
        places = pc.fill_null(distinct.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        return np.where(places >= 0, np.append(found, -1)[places], -1).astype(np.int64)


# ------------------------------------------------------------------------------ before the job


def check_evaluable(manifest: Manifest, source: Source, column: str) -> LabelColumn:
    """Return the *column* of *source*, after a look at whether answers of *manifest*'s model can be judged by it.

    Raises:
        SchemaError: They cannot: by the column's type, or by the rows that were looked at.
        InputError: A file cannot be read.
        ModelError: This version of Vedette does not know the model's head.
    """
    labels = LabelColumn.of(manifest, source, column)
    if labels.holds == "objects" and find_spec("pycocotools") is None:
        raise labels.failed("pycocotools, which compares objects, is not installed; pip install 'vedette[cluster]'")
    if labels.holds in {"text", "label"} and manifest.task == "embedding":
        return labels  # whatever tells classes apart
    seen = _Seen(labels=labels, rows_seen=tuple(_looks(source, labels)))
    try:
        truths = Truths.of(seen, manifest)
        if labels.holds in {"text", "label"}:
            ids = ClassIds(labels, truths.classes, manifest.labels)
            for look in seen.rows_seen:
                ids(look.cells)
            return labels
        for row, size in seen.pictures():
            if size is not None or not (labels.holds == "objects" and labels.truth in {"mask", "matte"}):
                truths.read(labels.truth, row, size)
    except DatasetError as error:
        raise labels.failed(error) from None
    return labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """Some rows of a row group: their numbers in the file, their labels, and more of some, by number.

    That is the size (height, width) that objects were drawn on, where the input says it, and the picture.
    """

    path: str
    numbers: Ids
    cells: pa.Array
    sizes: Mapping[int, Sequence[Any]] = field(default_factory=dict)
    pictures: Mapping[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """The rows that were looked at, as `Truths` takes them."""

    labels: LabelColumn
    rows_seen: tuple[_Look, ...]

    @property
    def uri(self) -> str:
        return self.labels.uri

    @property
    def label_names(self) -> tuple[str, ...] | None:
        return self.labels.label_names

    def rows(self) -> Iterator[Row]:
        if self.labels.holds in {"label", "objects"}:
            yield from (row for row, _ in self._known())

    def pictures(self) -> Iterator[tuple[Row, tuple[int, int] | None]]:
        """Yield each row with the size of its picture, where that was looked at and is a picture."""
        for row, image in self._known():
            yield row, _size(image)

    def _known(self) -> Iterator[tuple[Row, Any]]:
        for look in self.rows_seen:
            for number, cell in zip(look.numbers.tolist(), look.cells.to_pylist(), strict=True):
                if (row := self.labels.row(cell, look.path, number)) is not None:
                    objects = with_size(row.objects, look.sizes.get(number, ()))
                    yield replace(row, objects=objects), look.pictures.get(number)


def _size(image: Any) -> tuple[int, int] | None:
    data = image_bytes(image) if not isinstance(image, str) else None
    try:
        return None if data is None else load(bytes(data)).shape[:2]
    except ImageError:
        return None


def _looks(source: Source, labels: LabelColumn) -> Iterator[_Look]:
    if source.reader != "parquet":
        yield from _looks_at_dataset(source, labels)
        return
    places = Places()
    groups = []
    for file in source.files:
        start = 0
        for index, group in enumerate(file.groups):
            groups += [(file.path, index, start, group.rows)] if group.rows else []
            start += group.rows
    for place in np.unique(np.linspace(0, len(groups) - 1, min(PLACES, len(groups))).astype(int)).tolist():
        path, index, start, rows = groups[place]
        try:
            with closing(places.reader(path)) as opened, pq.ParquetFile(opened.source) as parquet:
                yield from _look_at_group(parquet, source, labels, (path, index, start, rows))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}, row group {index}, cannot be read: {' '.join(str(error).split())}") from None


def _look_at_group(
    parquet: pq.ParquetFile, source: Source, labels: LabelColumn, place: tuple[str, int, int, int]
) -> Iterator[_Look]:
    """Yield what the first rows of a row group say; nothing where a column is not in the file itself."""
    path, index, start, rows = place
    condition = Filter.parse(source.columns.filter) if source.columns.filter else None
    columns = list(dict.fromkeys((labels.column, *(condition.columns if condition else ()))))
    if not set(columns) <= set(parquet.schema_arrow.names):
        return
    table = _first_rows(parquet, index, columns, min(rows, LOOKED_AT[labels.holds]))
    numbers = np.arange(start, start + table.num_rows)
    table = table.append_column("", pa.array(numbers))
    if source.columns.sample is not None:
        sampled = source.columns.sample.rows(path, start, start + table.num_rows)
        table = table.filter(pa.array(np.isin(numbers, sampled)))
    if condition is not None:
        table = table.filter(condition.expression(parquet.schema_arrow))
    sizes: dict[int, Sequence[Any]] = {}
    pictures: dict[int, Any] = {}
    image = source.columns.image
    if labels.holds in {"objects", "mask"} and image is not None and image in parquet.schema_arrow.names:
        shown = _first_rows(parquet, index, [image], min(rows, PICTURES))
        pictures = dict(zip(numbers.tolist(), shown.column(0).to_pylist(), strict=False))
    if drawn_on := size_columns(parquet.schema_arrow, labels.holds):
        drawn = _first_rows(parquet, index, list(drawn_on), min(rows, PICTURES))
        cells = zip(*(column.to_pylist() for column in drawn.columns), strict=True)
        sizes = dict(zip(numbers.tolist(), cells, strict=False))
    yield _Look(
        path=path,
        numbers=table.column(table.num_columns - 1).to_numpy(),
        cells=table.column(0).combine_chunks(),
        sizes=sizes,
        pictures=pictures,
    )


def _first_rows(parquet: pq.ParquetFile, group: int, columns: list[str], rows: int) -> pa.Table:
    batch = next(parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns))
    return pa.Table.from_batches([batch]).select(columns)


def _looks_at_dataset(source: Source, labels: LabelColumn) -> Iterator[_Look]:
    dataset = open_dataset(source.uri)
    condition = Filter.parse(source.columns.filter).expression(source.schema) if source.columns.filter else None
    known = ((number, row.label) for number, row in enumerate(dataset.rows(0, LOOKED_AT[labels.holds])))
    numbers, values = map(list, zip(*known, strict=True))
    table = pa.table({labels.column: pa.array(values, pa.int64()), "": pa.array(numbers, pa.int64())})
    if condition is not None:
        table = table.filter(condition)
    yield _Look(path=source.uri, numbers=table.column(1).to_numpy(), cells=table.column(0).combine_chunks())
