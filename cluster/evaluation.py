"""How right a classifier is on labels that the input has: streamed over the output, after the job.

Rules:
    * A label is a class by name (text) or by index (integer); rows without one are not judged.
    * A label that is no class of the model is an error: figures without it would be of other data.
    * ``macro_f1`` and ``macro_recall`` are means over the classes that occur, as `vedette evaluate` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import SchemaError
from cluster.output.commit import OutputDirectory
from cluster.output.read import column_batches
from cluster.output.records import OutputManifest
from cluster.output.schema import Kept
from runtime.manifest import Manifest
from runtime.metrics import precision_recall_f1
from runtime.tasks import Classification, head_of

__all__ = ["Evaluation", "check_evaluable", "evaluate", "with_labels"]

ROWS = 65_536  # in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How right the answers are.

    Attributes:
        column: Of the output, with the labels.
        judged: Rows with a label.
        unlabelled: Rows without one.
        metrics: ``top1``, ``macro_f1`` and ``macro_recall``; none where no row has a label.
    """

    column: str
    judged: int
    unlabelled: int
    metrics: dict[str, float]


def with_labels(keep: tuple[str, ...], label: str | None) -> tuple[str, ...]:
    """Return what to keep, in the words of ``--keep``: what was asked for, and the column *label* to judge by."""
    if label is None or label in {Kept.parse(text).column for text in keep}:
        return keep
    return (*keep, label)


def check_evaluable(manifest: Manifest, column: pa.Field) -> None:
    """Raise `SchemaError` unless the answers of *manifest*'s model can be judged by the labels in *column*."""
    if head_of(manifest).result is not Classification:
        raise SchemaError(
            f"--evaluate: {manifest.reference} is for {manifest.task}; batch jobs judge classification, "
            "`vedette evaluate` judges every task"
        )
    kind = _values(column.type)
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise SchemaError(f"--evaluate: column {column.name!r} is {column.type}; expected class names or indices")


def _values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def evaluate(output: OutputDirectory, manifest: OutputManifest, column: str, labels: Sequence[str]) -> Evaluation:
    """Judge the answers of a finished output by its *column* of labels.

    Args:
        output: The output.
        manifest: Of it.
        column: That holds the labels; see `check_evaluable`.
        labels: The model's classes.

    Raises:
        SchemaError: A label is no class of the model.
        OSError: A file cannot be read.
    """
    count = len(labels)
    right, said, support = (np.zeros(count, np.int64) for _ in range(3))
    judged = unlabelled = 0
    for written in manifest.data:
        with closing(output.store.reader(written.path)) as file, pq.ParquetFile(file.source) as parquet:
            for batch in column_batches(parquet, written, manifest, columns=[column, "label_id"], rows=ROWS):
                truth = _class_ids(batch.column(column), labels, column)
                answers = pc.fill_null(batch.column("label_id"), -1).to_numpy(zero_copy_only=False)
                known = truth >= 0
                judged, unlabelled = judged + int(known.sum()), unlabelled + int((~known).sum())
                truth, answers = truth[known], answers[known]
                support += np.bincount(truth, minlength=count)
                said += np.bincount(answers[answers >= 0], minlength=count)
                right += np.bincount(truth[truth == answers], minlength=count)
    metrics = {}
    if judged:
        figures = precision_recall_f1(right, said, support)[support > 0]
        metrics = {"top1": float(right.sum() / judged)}
        metrics |= {"macro_f1": float(figures[:, 2].mean()), "macro_recall": float(figures[:, 1].mean())}
    return Evaluation(column=column, judged=judged, unlabelled=unlabelled, metrics=metrics)


def _class_ids(values: pa.Array, labels: Sequence[str], column: str) -> npt.NDArray[np.int64]:
    """Return the index of the class that each of *values* means, -1 where there is none."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_integer(values.type):
        ids = values
        unknown = values.filter(pc.or_(pc.less(values, 0), pc.greater_equal(values, len(labels))))
    else:
        ids = pc.index_in(values, value_set=pa.array(labels, values.type))
        unknown = values.filter(pc.and_(pc.is_null(ids), pc.is_valid(values)))
    if len(unknown := unknown.drop_null()):
        raise SchemaError(
            f"--evaluate {column}: {unknown[0].as_py()!r} is no class of the model, which has {len(labels)}: "
            f"{', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}"
        )
    found: npt.NDArray[np.int64] = pc.fill_null(ids.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return found
