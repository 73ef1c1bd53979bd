"""How good and how fast variants are, and whether one earns its place.

Rules:
    * Accuracy is measured through the predictor that every place uses, on rows that it has not learned from.
    * Latency is measured in turns, one run of each variant after the other, so that a busy moment of the
      machine hits all alike; the median of a batch of one on one thread counts.
    * A variant that loses more accuracy than allowed, or is not faster than fp32, is rejected with its figures.
"""

from __future__ import annotations

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

from controller.lifecycle.labelled import describe_skipped, usable_rows
from runtime.artifact import Artifact
from runtime.datasets import Dataset
from runtime.errors import DatasetError
from runtime.manifest import CustomOps
from runtime.predictor import Predictor
from runtime.session import Session, SessionOptions
from runtime.tasks import Classification
from runtime.terminal import progress

__all__ = ["Evaluation", "evaluate", "measure_latency", "why_rejected"]

BATCH = 32  # images
WARM_UPS = 5
ROUNDS = 60
LATENCY_BUDGET = 10.0  # seconds for all rounds
ALONE_BUDGET = 1.0  # the same, where there is nothing to compare with


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a variant answered on labelled data.

    Attributes:
        top1: Share of the images whose best class was the labelled one.
        answers: int64, (n,): the best class of each image, in order.
    """

    top1: float
    answers: npt.NDArray[np.int64]

    def agreement(self, other: Evaluation) -> float:
        """Return the share of the images that *other* answers alike."""
        return float(np.mean(self.answers == other.answers))


def evaluate(artifact: Artifact, variant: str, dataset: Dataset) -> Evaluation:
    """Run *variant* of *artifact* on the CPU over *dataset*.

    Raises:
        DatasetError: There is no usable image, or a label is not one of the model's.
        ProviderError: The variant did not pass its proof.
    """
    predictor = Predictor(artifact, provider="cpu", variant=variant)
    classes = len(artifact.manifest.labels)
    skipped: Counter[str] = Counter()
    answers: list[int] = []
    truth: list[int] = []
    with progress(len(dataset), f"measuring {variant}", "images") as bar:
        for pictures, labels in _batches(dataset, skipped):
            answers += [p.label_id for p in predictor.predict(pictures) if isinstance(p, Classification)]
            truth += labels
            bar.advance(len(labels))
    if not truth:
        raise DatasetError(f"dataset {dataset.uri} has no usable image: {describe_skipped(skipped)}")
    if max(truth) >= classes:
        raise DatasetError(
            f"dataset {dataset.uri} has the label {max(truth)}; the model has {classes} classes, 0 to {classes - 1}"
        )
    right = np.asarray(answers) == np.asarray(truth)
    return Evaluation(top1=float(right.mean()), answers=np.asarray(answers, np.int64))


def _batches(dataset: Dataset, skipped: Counter[str]) -> Iterator[tuple[list[npt.NDArray[np.uint8]], list[int]]]:
    rows = usable_rows(dataset, skipped)
    while chunk := list(islice(rows, BATCH)):
        yield [image for image, _ in chunk], [label for _, label in chunk]


def measure_latency(
    paths: Mapping[str, Path], batch: npt.NDArray[Any], custom_ops: Sequence[CustomOps] = ()
) -> dict[str, float]:
    """Return the median milliseconds of one run of each graph, by its key in *paths*.

    Args:
        paths: ONNX files that take the same input.
        batch: The input: one image, or the fixed batch.
        custom_ops: Libraries of operators that they need.
    """
    one_thread = SessionOptions(intra_op_threads=1)
    sessions = {name: Session(path, options=one_thread, custom_ops=custom_ops) for name, path in paths.items()}
    times: dict[str, list[float]] = {name: [] for name in paths}
    until = time.perf_counter() + (LATENCY_BUDGET if len(paths) > 1 else ALONE_BUDGET)
    for number in range(WARM_UPS + ROUNDS):
        last = number > 0 and time.perf_counter() > until  # a slow graph is warm after fewer rounds
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(batch)
            if last or number >= WARM_UPS:
                times[name].append(1000 * (time.perf_counter() - start))
        if last:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def why_rejected(metrics: Mapping[str, float], fp32: Mapping[str, float], max_drop: float) -> str | None:
    """Return why a variant of these *metrics* does not earn its place beside *fp32*; ``None`` if it does.

    Args:
        metrics: ``top1`` (share) and ``latency_ms`` of the variant.
        fp32: The same of the fp32 variant.
        max_drop: Percentage points of top-1 that may be lost.
    """
    drop = 100 * (fp32["top1"] - metrics["top1"])
    if drop > max_drop:
        return f"top-1 is {drop:.2f} points below fp32; at most {max_drop:g} are allowed"
    if metrics["latency_ms"] >= fp32["latency_ms"]:
        return f"not faster than fp32: {metrics['latency_ms']:.3f} ms against {fp32['latency_ms']:.3f} ms"
    return None
