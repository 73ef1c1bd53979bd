"""The columns of the output (DESIGN.md §4): kept input columns, where the row came from, what the model said.

Rules:
    * One entry a task in `OUTPUTS`: its columns, and how predictions become them.
    * Kept columns keep their types. A kept column that is called like an output column is refused
      before anything runs, and so is a column that the input does not have.
    * The file's metadata names the model, the variant, the execution provider and the versions, so
      that an output explains itself without the job that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Self

import pyarrow as pa

from cluster.errors import SchemaError
from runtime.manifest import Manifest
from runtime.tasks import Classification

__all__ = [
    "OUTPUTS",
    "QUARANTINE_SCHEMA",
    "SOURCE_FIELDS",
    "Kept",
    "TaskColumns",
    "file_metadata",
    "kept_fields",
    "named_apart",
    "output_schema",
    "task_columns",
]

SOURCE_FIELDS: tuple[pa.Field, ...] = (
    pa.field("source_file", pa.string(), nullable=False),
    pa.field("source_row", pa.int64(), nullable=False),
)

QUARANTINE_SCHEMA = pa.schema([*SOURCE_FIELDS, pa.field("reason", pa.string()), pa.field("detail", pa.string())])
"""Of the files under ``quarantine/``; the reason is a code of `runtime.errors.ImageReason`."""


@dataclass(frozen=True, slots=True)
class TaskColumns:
    """What a task adds to the output.

    Attributes:
        fields: The columns.
        arrays: Turns predictions into one array a column, in the order of *fields*.
    """

    fields: tuple[pa.Field, ...]
    arrays: Callable[[Sequence[Any]], list[pa.Array]]


_LABEL_SCORE = pa.struct([("label_id", pa.int32()), ("label", pa.string()), ("score", pa.float32())])


def _classification_arrays(predictions: Sequence[Classification]) -> list[pa.Array]:
    top_k = [[{"label_id": t.label_id, "label": t.label, "score": t.score} for t in p.top_k] for p in predictions]
    return [
        pa.array([p.label_id for p in predictions], pa.int32()),
        pa.array([p.label for p in predictions], pa.string()),
        pa.array([p.score for p in predictions], pa.float32()),
        pa.array(top_k, pa.list_(_LABEL_SCORE)),
    ]


OUTPUTS: Mapping[str, TaskColumns] = {
    "classification": TaskColumns(
        fields=(
            pa.field("label_id", pa.int32()),
            pa.field("label", pa.string()),
            pa.field("score", pa.float32()),
            pa.field("top_k", pa.list_(_LABEL_SCORE)),
        ),
        arrays=_classification_arrays,
    ),
}
"""By task; a new task is a new entry."""


def task_columns(task: str) -> TaskColumns:
    """Return what *task* adds to the output.

    Raises:
        SchemaError: Batch jobs do not know the task yet.
    """
    if task not in OUTPUTS:
        raise SchemaError(f"batch jobs cannot run task {task!r} yet; they run {', '.join(OUTPUTS)}")
    return OUTPUTS[task]


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


def named_apart(kept: Iterable[Kept], task: str) -> tuple[Kept, ...]:
    """Return *kept*, those renamed to ``input_...`` that the output has a column of its own for.

    A name that was given, and not just the input's, stays as it is.
    """
    own = _own_names(task)
    return tuple(Kept(k.column, f"input_{k.column}") if k.name == k.column and k.name in own else k for k in kept)


def _own_names(task: str) -> tuple[str, ...]:
    """Return the names of the columns that the output has of its own."""
    return tuple(field.name for field in [*SOURCE_FIELDS, *task_columns(task).fields])


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


def output_schema(task: str, kept: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of the output: *kept* columns, the source of the row, the columns of *task*.

    Raises:
        SchemaError: A kept column is called like one of the others, or is kept twice.
    """
    own = [*SOURCE_FIELDS, *task_columns(task).fields]
    names = [field.name for field in kept]
    if clashing := sorted(set(names).intersection(_own_names(task))):
        raise SchemaError(
            f"--keep {', '.join(clashing)}: the output has its own column of that name "
            f"({', '.join(_own_names(task))}); give it another one: --keep COLUMN=NAME"
        )
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaError(f"--keep gives the name {', '.join(doubled)} twice")
    return pa.schema([*kept, *own])


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
