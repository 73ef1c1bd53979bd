"""The columns of the output (DESIGN.md §4): kept input columns, where the row came from, what the model said.

Rules:
    * One row of `COLUMNS` a kind of result: its columns; what is in them says `runtime.tasks.records`.
    * Kept columns keep their types. A kept column that is called like an output column is refused
      before anything runs, and so is a column that the input does not have.
    * The file's metadata names the model, the variant, the execution provider and the versions, so
      that an output explains itself without the job that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

import pyarrow as pa

from cluster.errors import SchemaError
from cluster.models import JobModel
from runtime.manifest import Manifest, Tensor
from runtime.tasks import (
    Classification,
    Detections,
    Embedding,
    Instances,
    Matte,
    Poses,
    Prediction,
    Segmentation,
    head_of,
)
from runtime.tasks.records import record_of

__all__ = [
    "COLUMNS",
    "QUARANTINE_SCHEMA",
    "SOURCE_FIELDS",
    "Fields",
    "Kept",
    "answer_columns",
    "file_metadata",
    "kept_fields",
    "named_apart",
    "output_schema",
    "prediction_arrays",
    "task_columns",
    "with_column",
]

SOURCE_FIELDS: tuple[pa.Field, ...] = (
    pa.field("source_file", pa.string(), nullable=False),
    pa.field("source_row", pa.int64(), nullable=False),
)

QUARANTINE_SCHEMA = pa.schema([*SOURCE_FIELDS, pa.field("reason", pa.string()), pa.field("detail", pa.string())])
"""Of the files under ``quarantine/``; the reason is a code of `runtime.errors.ImageReason`."""


_LABEL_SCORE = (("label_id", pa.int32()), ("label", pa.string()), ("score", pa.float32()))
_BOX = tuple((name, pa.float32()) for name in ("x1", "y1", "x2", "y2"))
_KEYPOINT = pa.struct([(name, pa.float32()) for name in ("x", "y", "score")])
_CLASS_PIXELS = pa.struct([("label_id", pa.int32()), ("label", pa.string()), ("pixels", pa.int64())])

Fields = tuple[pa.Field, ...]


def _list_of(name: str, *fields: tuple[str, pa.DataType]) -> pa.Field:
    return pa.field(name, pa.list_(pa.struct(list(fields))))


def _embedding_fields(manifest: Manifest) -> Fields:
    dimensions = _dimensions(manifest)
    return (
        pa.field("embedding", pa.list_(pa.float32()) if dimensions is None else pa.list_(pa.float32(), dimensions)),
    )


def _dimensions(manifest: Manifest) -> int | None:
    """Return the length of the vectors, where every variant of *manifest* declares the same one."""
    named = manifest.postprocess.outputs.get("embedding")
    found = {
        next(
            (_length(output) for output in variant.outputs if named in {None, output.name} and _is_vectors(output)),
            None,
        )
        for variant in manifest.variants
    }
    return found.pop() if len(found) == 1 else None


def _is_vectors(output: Tensor) -> bool:
    """Whether *output* is floating (N, D, 1...), as the embedding head finds it."""
    return len(output.shape) >= 2 and set(output.shape[2:]) <= {1} and output.dtype.startswith("float")


def _length(output: Tensor) -> int | None:
    length = output.shape[1]
    return length if isinstance(length, int) else None


COLUMNS: Mapping[type[Prediction], Callable[[Manifest], Fields]] = {
    Classification: lambda _: (
        *(pa.field(name, kind) for name, kind in _LABEL_SCORE),
        _list_of("top_k", *_LABEL_SCORE),
    ),
    Detections: lambda _: (_list_of("detections", *_LABEL_SCORE, *_BOX),),
    Instances: lambda _: (
        _list_of("instances", *_LABEL_SCORE, *_BOX, ("left", pa.int32()), ("top", pa.int32()), ("mask", pa.binary())),
    ),
    Segmentation: lambda _: (pa.field("mask", pa.binary()), pa.field("classes", pa.list_(_CLASS_PIXELS))),
    Matte: lambda _: (pa.field("mask", pa.binary()), pa.field("coverage", pa.float32())),
    Poses: lambda _: (_list_of("poses", ("score", pa.float32()), *_BOX, ("keypoints", pa.list_(_KEYPOINT))),),
    Embedding: _embedding_fields,
}
"""By kind of result: the columns that a model of that manifest fills; their names are those of its records."""


def task_columns(manifest: Manifest) -> Fields:
    """Return the columns that the predictions of *manifest*'s model become.

    Raises:
        ModelError: This version of Vedette does not know the model's head.
    """
    return COLUMNS[head_of(manifest).result](manifest)


def answer_columns(models: Iterable[JobModel]) -> Fields:
    """Return the columns that the answers of all *models* of a job become, one model after the other.

    Raises:
        ModelError: This version of Vedette does not know a model's head.
    """
    return tuple(
        field.with_name(f"{model.prefix}{field.name}") for model in models for field in task_columns(model.manifest)
    )


def prediction_arrays(fields: Sequence[pa.Field], predictions: Sequence[Prediction]) -> list[pa.Array]:
    """Return what *predictions* say, as one array for each of *fields*, which are `task_columns`."""
    records = [record_of(prediction) for prediction in predictions]
    return [pa.array([record[field.name] for record in records], field.type) for field in fields]


@dataclass(frozen=True, slots=True)
class Kept:
    """A column that passes through: what the input calls it, and what the output does."""

    column: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what ``COLUMN`` or ``COLUMN=NAME`` means.

        Raises:
            SchemaError: A part is empty.
        """
        column, renamed, name = text.partition("=")
        if not column.strip() or (renamed and not name.strip()):
            raise SchemaError(f"--keep {text!r}: expected COLUMN or COLUMN=NAME, NAME being its name in the output")
        return cls(column.strip(), name.strip() or column.strip())


def with_column(keep: tuple[str, ...], column: str | None) -> tuple[str, ...]:
    """Return what to keep, in the words of ``--keep``: what was asked for, and *column*, which the job needs."""
    if column is None or column in {Kept.parse(text).column for text in keep}:
        return keep
    return (*keep, column)


def named_apart(kept: Iterable[Kept], answers: Fields) -> tuple[Kept, ...]:
    """Return *kept*, those renamed to ``input_...`` that the output has a column of its own for, besides *answers*.

    A name that was given, and not just the input's, stays as it is.
    """
    own = _own_names(answers)
    return tuple(Kept(k.column, f"input_{k.column}") if k.name == k.column and k.name in own else k for k in kept)


def _own_names(answers: Fields) -> tuple[str, ...]:
    """Return the names of the columns that the output has of its own."""
    return tuple(field.name for field in [*SOURCE_FIELDS, *answers])


def kept_fields(available: pa.Schema, kept: Sequence[Kept]) -> list[pa.Field]:
    """Return the fields that *kept* columns of *available* have in the output; without their metadata.

    Raises:
        SchemaError: A column is not there, or its name stands for two.
    """
    fields = []
    for one in kept:
        found = available.get_all_field_indices(one.column)
        if len(found) != 1:
            has = ", ".join(available.names) or "none"
            problem = "has no column" if not found else f"has {len(found)} columns called"
            raise SchemaError(f"--keep: the input {problem} {one.column!r}; its columns are: {has}")
        field = available.field(found[0])
        fields.append(pa.field(one.name, field.type, nullable=field.nullable))
    return fields


def output_schema(answers: Fields, kept: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of the output: *kept* columns, the source of the row, what the models say (`answer_columns`).

    Raises:
        SchemaError: A kept column is called like one of the others, or is kept twice.
    """
    own = _own_names(answers)
    names = [field.name for field in kept]
    if clashing := sorted(set(names).intersection(own)):
        raise SchemaError(
            f"--keep {', '.join(clashing)}: the output has its own column of that name "
            f"({', '.join(own)}); give it another one: --keep COLUMN=NAME"
        )
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaError(f"--keep gives the name {', '.join(doubled)} twice")
    return pa.schema([*kept, *SOURCE_FIELDS, *answers])


def file_metadata(manifest: Manifest, digest: str, *, variant: str, provider: str, ort: str) -> dict[str, str]:
    """Return the metadata of an output file: which model made it, and on what it ran.

    Args:
        manifest: Of the model.
        digest: SHA-256 of the manifest file.
        variant: Id of the variant that ran.
        provider: Execution provider that it ran on.
        ort: Version of ONNX Runtime.
    """
    return {
        "vedette.model": manifest.name,
        "vedette.model_version": str(manifest.version),
        "vedette.manifest_sha256": digest,
        "vedette.variant": variant,
        "vedette.provider": provider,
        "vedette.onnxruntime": ort,
        "vedette.version": version("vedette"),
    }
