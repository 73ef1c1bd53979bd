"""What a model said of a whole dataset: how often each class, and how sure; streamed over the output's own columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.models import JobModel
from cluster.output.commit import OutputDirectory
from cluster.output.records import OutputManifest
from runtime.tasks import Classification, Detections, Instances, Prediction, Segmentation, head_of

__all__ = ["SCORE_BINS", "Classes", "count_classes"]

SCORE_BINS = 20  # of equal width from 0 to 1
ROWS = 65_536  # in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """How often each class was answered.

    Attributes:
        model: That answered, ``NAME@VERSION``.
        unit: What is counted: ``images``, ``boxes``, ``objects`` or ``pixels``.
        counts: By class, the most frequent first; ``(none)`` for answers without a class.
        scores: How many have a score in each of `SCORE_BINS` intervals from 0 to 1; empty where there are no scores,
            or where they are no probabilities.
    """

    model: str
    unit: str
    counts: Mapping[str, int]
    scores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Counted:
    """How to count a kind of result: its columns, the unit, and (labels, weights, scores) of a batch of them."""

    columns: tuple[str, ...]
    unit: str
    take: Callable[[pa.RecordBatch], tuple[pa.Array, pa.Array | None, pa.Array | None]]


def _members(column: str, *fields: str) -> Callable[[pa.RecordBatch], Iterator[pa.Array]]:
    return lambda batch: map(batch.column(column).flatten().field, fields)


def _scored(column: str) -> Callable[[pa.RecordBatch], tuple[pa.Array, None, pa.Array]]:
    def take(batch: pa.RecordBatch) -> tuple[pa.Array, None, pa.Array]:
        labels, scores = _members(column, "label", "score")(batch)
        return labels, None, scores

    return take


def _weighted(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array, None]:
    labels, pixels = _members("classes", "label", "pixels")(batch)
    return labels, pixels, None


COUNTED: Mapping[type[Prediction], _Counted] = {
    Classification: _Counted(("label", "score"), "images", lambda b: (b.column("label"), None, b.column("score"))),
    Detections: _Counted(("detections",), "boxes", _scored("detections")),
    Instances: _Counted(("instances",), "objects", _scored("instances")),
    Segmentation: _Counted(("classes",), "pixels", _weighted),
}
"""By kind of result; others have no classes."""


def count_classes(output: OutputDirectory, manifest: OutputManifest, models: Iterable[JobModel]) -> list[Classes]:
    """Return how often each class is in a finished output, of each of *models* whose answers have classes.

    Raises:
        OSError: A file cannot be read.
        pa.ArrowException: It is damaged.
    """
    results = ((model, head_of(model.manifest).result) for model in models)
    return [_counted(output, manifest, model, result) for model, result in results if result in COUNTED]


def _counted(output: OutputDirectory, manifest: OutputManifest, model: JobModel, result: type[Prediction]) -> Classes:
    how = COUNTED[result]
    columns = [f"{model.prefix}{name}" for name in how.columns]
    counts: Counter[str] = Counter()
    bins = np.zeros(SCORE_BINS, np.int64)
    probable = result is not Segmentation
    for written in manifest.data:
        with closing(output.store.reader(written.path)) as file, _opened(file.source, columns) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS, columns=columns):
                named = pa.RecordBatch.from_arrays([batch.column(name) for name in columns], list(how.columns))
                labels, weights, scores = how.take(named)
                _count(counts, labels, weights)
                if scores is not None and probable:
                    values = scores.to_numpy(zero_copy_only=False)
                    values = values[~np.isnan(values)]  # null
                    probable = bool(((values >= 0) & (values <= 1 + 1e-6)).all())
                    bins += np.histogram(values, SCORE_BINS, (0, 1 + 1e-6))[0]
    ranked = dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
    scored = tuple(bins.tolist()) if probable else ()
    return Classes(model=model.manifest.reference, unit=how.unit, counts=ranked, scores=scored)


def _opened(source: Any, columns: Sequence[str]) -> pq.ParquetFile:
    """Open a file whose labels, in *columns*, come as they lie there: numbers of the entries of a dictionary."""
    footer = pq.read_metadata(source)
    paths = [footer.schema.column(number).path for number in range(len(footer.schema))]
    labels = [path for path in paths if path.partition(".")[0] in columns and path.endswith("label")]
    return pq.ParquetFile(source, metadata=footer, read_dictionary=labels)


def _count(counts: Counter[str], labels: pa.DictionaryArray, weights: pa.Array | None) -> None:
    names = [*labels.dictionary.to_pylist(), "(none)"]
    places = labels.indices.to_numpy(zero_copy_only=False)
    if labels.null_count:
        places = np.where(np.isnan(places), len(names) - 1, places).astype(np.int64)
    each = None if weights is None else weights.to_numpy(zero_copy_only=False)
    numbers = np.bincount(places, each, len(names)).astype(np.int64)
    counts.update({name: number for name, number in zip(names, numbers.tolist(), strict=True) if number})
