"""How good and how fast variants are.

Rules:
    * Accuracy is measured through the predictor that every place uses, on rows that it has not learned from; how is a
      table by kind of answer, `runtime.evaluation.metrics`. It is done in a stream: only what the figures
      need stays.
    * An image that cannot be used is counted by its reason and left out; a label that cannot be is an error.
    * Latency is measured in turns of a few runs, so that a busy moment of the machine hits all variants alike, and each
      finds the caches as its own run before left them, as on a device; the median of one image on one thread counts.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.lifecycle.evaluation.examples import Example, Examples
from controller.lifecycle.evaluation.labelled import describe_skipped
from runtime.artifact import Artifact
from runtime.datasets import Dataset
from runtime.errors import DatasetError, ImageError
from runtime.evaluation.metrics import METRICS, ClassTable, Confusion, Figures, Metric
from runtime.evaluation.titles import title_of
from runtime.evaluation.truth import Truths
from runtime.manifest import CustomOps, Preprocess
from runtime.predictor import Predictor
from runtime.providers import CPU
from runtime.session import Session, SessionOptions
from runtime.tasks import head_of
from runtime.terminal import progress

__all__ = ["Evaluation", "evaluate", "measure_latency"]

BATCHES: Mapping[str, int] = {"label": 32}  # images, by what must be known of them
DENSE_BATCH = 8  # images, where each answer may be as large as the image
TURNS = 12  # of each graph
TURN_SECONDS = 0.5
LEAST_RUNS, MOST_RUNS = 2, 6  # in a turn; the first finds the caches full of the other graph, and is not counted
LATENCY_BUDGET = 10.0  # seconds for all turns
ALONE_BUDGET = 1.0  # the same, where there is nothing to compare with

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What a variant answered on labelled data.

    Attributes:
        variant: Its id.
        provider: ONNX Runtime's name of the execution provider that it ran on.
        dataset: URI of the data.
        images: How many were judged.
        skipped: How many were not, by reason.
        figures: What the judge said.
        answers: What the variant said of each image, small.
        metric: By which it judged.
        examples: Some of the images with the answers.
        notes: What a reader must know of the figures.
    """

    variant: str
    provider: str
    dataset: str
    images: int
    skipped: Mapping[str, int]
    figures: Figures
    answers: Sequence[Any]
    metric: Metric
    examples: tuple[Example, ...]
    notes: tuple[str, ...]

    @property
    def primary(self) -> str:
        """Name of the figure by which variants are compared; more is better."""
        return self.metric.primary

    @property
    def metrics(self) -> Mapping[str, float]:
        """Figures by name, shares where nothing else is said; all are finite."""
        return {name: value for name, value in self.figures.metrics.items() if math.isfinite(value)}

    @property
    def classes(self) -> ClassTable | None:
        """Figures by class."""
        return self.figures.classes

    @property
    def confusion(self) -> Confusion | None:
        """What was taken for what."""
        return self.figures.confusion

    def agreement(self, other: Evaluation) -> float:
        """Return how much the answers of *other*, for the same images, are these, 0 to 1."""
        return self.metric.agreement(self.answers, other.answers)


def evaluate(artifact: Artifact, variant: str, dataset: Dataset, provider: str = "cpu") -> Evaluation:
    """Run *variant* of *artifact* over *dataset*.

    Args:
        artifact: The model.
        variant: Id of the variant.
        dataset: Labelled as the task needs it (docs/evaluation.md).
        provider: As `Predictor` takes it.

    Raises:
        DatasetError: There is no usable image, a row lacks its label, or a label is not one of the model's.
        ProviderError: The variant did not pass its proof.
    """
    predictor = Predictor(artifact, provider=provider, variant=variant)
    metric = METRICS[head_of(artifact.manifest).result]
    judge, truths = metric.judge(artifact.manifest), Truths.of(dataset, artifact.manifest)
    examples, skipped = Examples(artifact.manifest.postprocess), Counter[str]()
    answers: list[Any] = []
    with progress(len(dataset), f"measuring {variant}", "images") as bar:
        rows = _pictures(dataset, predictor, truths, metric, skipped)
        while batch := list(islice(rows, _batch_size(metric, artifact.manifest.preprocess))):
            predictions = predictor.predict([picture for picture, _, _ in batch], **judge.changes)
            for (picture, truth, source), prediction in zip(batch, predictions, strict=True):
                verdict = judge.add(prediction, truth, picture.shape[:2])
                answers.append(metric.answer(verdict.shown))
                examples.offer(picture, verdict, source)
            bar.advance(len(batch))
    if not answers:
        raise DatasetError(f"dataset {dataset.uri} has no usable image: {describe_skipped(skipped)}")
    figures = judge.figures()
    if not math.isfinite(figures.metrics[metric.primary]):
        raise DatasetError(
            f"dataset {dataset.uri} has nothing that {title_of(metric.primary).name} could be measured by"
        )
    left_out = (f"images that could not be used: {describe_skipped(skipped)}",) if skipped else ()
    taken_for_granted = (truths.classes.note,) if truths.classes.note else ()
    return Evaluation(
        variant=variant,
        provider=predictor.provider,
        dataset=dataset.uri,
        images=len(answers),
        skipped=dict(skipped),
        figures=figures,
        answers=answers,
        metric=metric,
        examples=examples.chosen,
        notes=(*taken_for_granted, *figures.notes, *left_out),
    )


def _batch_size(metric: Metric, preprocess: Preprocess) -> int:
    """Return how many images are inferred at once: one, where each may become an input of another size."""
    if preprocess.resize is None and preprocess.crop is None:
        return 1
    return BATCHES.get(metric.truth, DENSE_BATCH)


def _pictures(
    dataset: Dataset, predictor: Predictor, truths: Truths, metric: Metric, skipped: Counter[str]
) -> Iterator[tuple[Pixels, Any, str]]:
    """Yield (picture, what is true of it, name of its file) of each usable row; others are counted into *skipped*."""
    for row in dataset.rows():
        try:
            if row.image is None:
                raise ImageError("missing", "the row has no image")  # noqa: TRY301 - one place counts all reasons
            picture = predictor.load(row.image).pixels
        except ImageError as error:
            skipped[error.reason] += 1
            continue
        height, width = picture.shape[:2]
        yield picture, truths.read(metric.truth, row, (height, width)), Path(row.source_file).name


def measure_latency(
    paths: Mapping[str, Path],
    batch: npt.NDArray[Any],
    custom_ops: Sequence[CustomOps] = (),
    provider: str = CPU.reference,
) -> dict[str, float]:
    """Return the median milliseconds of one run of each graph, by its key in *paths*.

    Args:
        paths: ONNX files that take the same input.
        batch: The input: one image, or the fixed batch.
        custom_ops: Libraries of operators that they need.
        provider: Reference of the execution provider (see `runtime.providers`).

    Raises:
        ProviderError: The provider cannot be had.
        ModelError: A graph does not run on it.
    """
    one_thread = SessionOptions(intra_op_threads=1)
    sessions = {name: Session(path, provider, one_thread, custom_ops=custom_ops) for name, path in paths.items()}
    slowest = max(max(_milliseconds(session, batch, 2)) for session in sessions.values())
    runs = min(MOST_RUNS, max(LEAST_RUNS, int(TURN_SECONDS * 1000 / slowest)))
    times: dict[str, list[float]] = {name: [] for name in paths}
    until = time.perf_counter() + (LATENCY_BUDGET if len(paths) > 1 else ALONE_BUDGET)
    for _ in range(TURNS):
        for name, session in sessions.items():
            times[name] += _milliseconds(session, batch, runs)[1:]
        if time.perf_counter() > until:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def _milliseconds(session: Session, batch: npt.NDArray[Any], runs: int) -> list[float]:
    """Return how long each of *runs* took, one after the other."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(batch)
        times.append(1000 * (time.perf_counter() - start))
    return times
