"""How right a model's answers are on labels that the input has: streamed over the output, after the job.

Rules:
    * The figures are those of `vedette model evaluate`: the same judges count, `runtime.evaluation`.
    * What was answered is judged, as it was answered: the model's own threshold decided which boxes there are. Average
      precision is of them, and a note says so (docs/adr/0012).
    * Rows without a label are not judged. A label that is no class of the model is an error: figures without it would
      be of other data.
    * Memory does not grow with the rows but by what a figure needs: nothing for classes and masks, 12 bytes a box. Of
      many vectors the neighbours of some are looked for, among all; a note says of how many.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.input.labels import ClassIds, LabelColumn
from cluster.output.commit import OutputDirectory
from cluster.output.read import column_batches
from cluster.output.records import OutputManifest
from cluster.output.schema import SOURCE_FIELDS, task_columns
from runtime.datasets import Row
from runtime.errors import DatasetError
from runtime.evaluation.metrics import METRICS, Figures
from runtime.evaluation.metrics.classification import TOP, ClassTally
from runtime.evaluation.metrics.embedding import Neighbours
from runtime.evaluation.outlines import canvas_of
from runtime.evaluation.titles import title_of
from runtime.evaluation.truth import Truths
from runtime.manifest import Manifest
from runtime.tasks import Classification, Embedding, Instances, Matte, Prediction, Segmentation, head_of
from runtime.tasks.records import prediction_of
from runtime.terminal import Progress, progress

__all__ = ["Evaluation", "evaluate"]

CLASS_ROWS = 65_536  # in memory at a time
VECTOR_ROWS = 4096
ROWS: Mapping[type[Prediction], int] = {Segmentation: 16, Matte: 16, Instances: 64}
SOME_ROWS = 1024  # of other kinds of answers
PAIRS = 10**10  # of vectors that are compared at most, unless `LEAST_ASKED` make more
LEAST_ASKED = 2000  # vectors whose neighbours are looked for
MOST_BYTES = 1 << 28  # of them
OWN_ANSWERS = (
    "judged is what the job wrote, the model's own answers, with scores from {wrote:g} on; `vedette model evaluate` "
    "takes them from {whole:g} on, and its average precision may be higher"
)

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How right the answers are.

    Attributes:
        model: Whose answers they are, ``NAME@VERSION``.
        column: Of the output, with the labels.
        judged: Rows with a label.
        unlabelled: Rows without one.
        metrics: By name (`runtime.evaluation.titles`); none where no row has a label, or none could be measured.
        classes: Figures of each class of which there is one, ``label`` being its name; ``None`` is a figure that there
            is not. Empty where the task has no classes.
        notes: What a reader must know of the figures.
    """

    model: str
    column: str
    judged: int
    unlabelled: int
    metrics: dict[str, float]
    classes: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def evaluate(
    output: OutputDirectory,
    manifest: OutputManifest,
    labels: LabelColumn,
    model: Manifest,
    *,
    name: str,
    prefix: str = "",
) -> Evaluation:
    """Judge the answers of a finished output by a column of labels that it kept.

    Args:
        output: The output.
        manifest: Of it.
        labels: The column, as `check_evaluable` found it in the input.
        model: Whose answers are judged.
        name: What the output calls the column.
        prefix: Of the names of the columns with the model's answers.

    Raises:
        SchemaError: A label is no class of the model, or does not fit the picture.
        OSError: A file cannot be read.
    """
    result = head_of(model).result
    rows = sum(written.rows for written in manifest.data)
    with progress(rows, "judging", "rows") as bar:
        answers = _Answers(
            output=output, manifest=manifest, labels=labels, model=model, name=name, prefix=prefix, bar=bar
        )
        try:
            found = HOW.get(result, _rows)(answers)
        except DatasetError as error:
            raise labels.failed(error) from None
    metrics = {} if found.figures is None else _finite(found.figures.metrics)
    primary = METRICS[result].primary
    notes = found.notes if found.figures is None else (*found.notes, *found.figures.notes)
    if found.judged and primary not in metrics:
        metrics, notes = {}, (*notes, f"the labels have nothing that {title_of(primary).name} could be measured by")
    return Evaluation(
        model=model.reference,
        column=name,
        judged=found.judged,
        unlabelled=rows - found.judged,
        metrics=metrics,
        classes=_classes_of(found.figures) if metrics else (),
        notes=notes,
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _classes_of(figures: Figures | None) -> tuple[dict[str, Any], ...]:
    if figures is None or figures.classes is None:
        return ()
    return tuple(
        {"label": label} | {n: v if math.isfinite(v) else None for n, v in zip(table.columns, values, strict=True)}
        for table in [figures.classes]
        for label, values in table.rows
        if any(map(math.isfinite, values[:-1]))  # the last one is how many there are
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """How many rows were judged, the figures if there was one, and what is to be known of them."""

    judged: int
    figures: Figures | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Answers:
    """The answers of a model and the labels beside them, as `Truths` takes them, too; see `evaluate`."""

    output: OutputDirectory
    manifest: OutputManifest
    labels: LabelColumn
    model: Manifest
    name: str
    prefix: str
    bar: Progress

    @property
    def uri(self) -> str:
        return self.labels.uri

    @property
    def label_names(self) -> tuple[str, ...] | None:
        return self.labels.label_names

    def rows(self) -> Iterator[Row]:
        """Yield what the labels say where that has classes, row by row: the labels alone are read."""
        if self.labels.holds not in {"label", "objects"}:
            return
        for batch in self.batches((), SOME_ROWS):
            yield from (row for row in self.known(batch) if row is not None)

    def known(self, batch: pa.RecordBatch) -> Iterator[Row | None]:
        """Yield what the labels of each row of *batch* say."""
        columns = (batch.column(one).to_pylist() for one in (self.name, *(one.name for one in SOURCE_FIELDS)))
        for cell, file, number in zip(*columns, strict=True):
            yield self.labels.row(cell, file, number)

    def batches(self, fields: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield labels, where they are from, and *fields* of the answers: up to *rows* rows at a time, in order."""
        columns = [self.name, *(one.name for one in SOURCE_FIELDS), *(self.prefix + one for one in fields)]
        for written in self.manifest.data:
            with closing(self.output.store.reader(written.path)) as file, pq.ParquetFile(file.source) as parquet:
                yield from column_batches(parquet, written, self.manifest, columns=columns, rows=rows)

    def field(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        """Return the field *name* of the answers in *batch*."""
        return batch.column(self.prefix + name)


def _rows(answers: _Answers) -> _Found:
    """Judge answers of any kind, one after the other."""
    result, post = head_of(answers.model).result, answers.model.postprocess
    judge, truths = METRICS[result].judge(answers.model), Truths.of(answers, answers.model)
    fields = [one.name for one in task_columns(answers.model)]
    judged = 0
    for batch in answers.batches(fields, ROWS.get(result, SOME_ROWS)):
        cells = zip(*(answers.field(batch, one).to_pylist() for one in fields), strict=True)
        for row, values in zip(answers.known(batch), cells, strict=True):
            if row is None:
                continue
            prediction = prediction_of(result, dict(zip(fields, values, strict=True)))
            size = prediction.mask.shape[:2] if isinstance(prediction, (Segmentation, Matte)) else None
            truth = truths.read(answers.labels.truth, row, size)
            if size is None:
                size = canvas_of(truth.outlines, prediction) if isinstance(prediction, Instances) else (0, 0)
            judge.add(prediction, truth, size)
            judged += 1
        answers.bar.advance(batch.num_rows)
    notes: tuple[str, ...] = (truths.classes.note,) if truths.classes.note else ()
    if judge.changes.get("score_threshold", post.score_threshold) < post.score_threshold:
        wrote, whole = post.score_threshold, judge.changes["score_threshold"]
        notes += (OWN_ANSWERS.format(wrote=wrote, whole=whole),)
    return _Found(judged=judged, figures=judge.figures() if judged else None, notes=notes)


def _classes(answers: _Answers) -> _Found:
    """Judge best classes, many at a time."""
    labels, post = answers.model.labels, answers.model.postprocess
    classes = Truths.of(answers, answers.model).classes
    ids = ClassIds(answers.labels, classes, labels)
    top = post.top_k >= TOP and not post.multi_label
    tally, judged = ClassTally(labels, top=top), 0
    for batch in answers.batches(["label_id", *(["top_k"] if top else [])], CLASS_ROWS):
        truth = ids(batch.column(answers.name))
        said = pc.fill_null(answers.field(batch, "label_id"), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        known = truth >= 0
        among = _among_top(answers.field(batch, "top_k"), truth)[known].sum() if top else 0
        tally.add(truth[known], said[known], int(among))
        judged += int(known.sum())
        answers.bar.advance(batch.num_rows)
    notes = (classes.note,) if classes.note and answers.labels.holds == "label" else ()
    return _Found(judged=judged, figures=tally.figures() if judged else None, notes=notes)


def _among_top(top: pa.Array, truth: Ids) -> npt.NDArray[np.bool_]:
    """Return whether each of *truth*, (n,), is among the five best of *top*, n lists of answers."""
    rows = pc.list_parent_indices(top).to_numpy(zero_copy_only=False)
    said = pc.struct_field(pc.list_flatten(top), "label_id").to_numpy(zero_copy_only=False)
    first = np.searchsorted(rows, np.arange(len(truth)))
    hit = (np.arange(len(rows)) - first[rows] < TOP) & (said == truth[rows])
    return np.bincount(rows[hit], minlength=len(truth)) > 0


def _vectors(answers: _Answers) -> _Found:
    """Judge vectors: of all labelled ones, or of some of many, the nearest other labelled one."""
    rows = sum(written.rows for written in answers.manifest.data)
    first = next((batch for batch in answers.batches(["embedding"], 1) if batch.num_rows), None)
    if first is None:
        return _Found(judged=0, figures=None)
    length = _matrix(answers.field(first, "embedding")).shape[1]
    most = min(rows, max(LEAST_ASKED, PAIRS // rows), max(1, MOST_BYTES // (4 * max(length, 1))))
    chosen = np.sort(random.Random(0).sample(range(rows), most))  # noqa: S311 - which are asked for is no secret
    asked = [block.among(chosen) for block in _labelled(answers)]
    if not any(len(block.numbers) for block in asked):
        return _Found(judged=sum(len(block.numbers) for block in _labelled(answers)), figures=None)
    values = pa.concat_arrays([block.values for block in asked])
    distinct = values.unique()
    neighbours = Neighbours(
        np.concatenate([block.vectors for block in asked]),
        _places(values, distinct),
        np.concatenate([block.numbers for block in asked]),
    )
    judged = 0
    for block in _labelled(answers):
        neighbours.see(block.vectors, _places(block.values, distinct), block.numbers)
        judged += len(block.numbers)
        answers.bar.advance(len(block.numbers))
    notes = (f"recall@1 of {len(values):,} rows, drawn by chance, among all",) if len(values) < judged else ()
    return _Found(judged=judged, figures=Figures(metrics={"recall1": neighbours.recall()}), notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Labelled rows: their vectors, float32 (n, D), labels, and numbers, (n,), in the output."""

    vectors: npt.NDArray[np.float32]
    values: pa.Array
    numbers: Ids

    def among(self, chosen: Ids) -> _Block:
        """Return those whose number is one of *chosen*, ascending."""
        mask = np.isin(self.numbers, chosen, assume_unique=True)
        values = self.values.filter(pa.array(mask))
        return _Block(vectors=self.vectors[mask], values=values, numbers=self.numbers[mask])


def _labelled(answers: _Answers) -> Iterator[_Block]:
    start = 0
    for batch in answers.batches(["embedding"], VECTOR_ROWS):
        values = batch.column(answers.name)
        values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
        known = pc.is_valid(values).to_numpy(zero_copy_only=False)
        numbers = np.arange(start, start + batch.num_rows)
        vectors = _matrix(answers.field(batch, "embedding"))
        yield _Block(vectors=vectors[known], values=values.drop_null(), numbers=numbers[known])
        start += batch.num_rows


def _matrix(vectors: pa.Array) -> npt.NDArray[np.float32]:
    """Return *vectors*, n lists of D numbers, as (n, D)."""
    flat = pc.list_flatten(vectors).to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(vectors), -1)


def _places(values: pa.Array, distinct: pa.Array) -> Ids:
    """Return which of *distinct* each of *values* is, -1 for none of them."""
    found: Ids = pc.fill_null(pc.index_in(values, value_set=distinct), -1).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


HOW: Mapping[type[Prediction], Callable[[_Answers], _Found]] = {Classification: _classes, Embedding: _vectors}
"""By kind of answer, where not row by row."""
