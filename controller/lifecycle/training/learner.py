"""What a framework brings to the training loop: a model that learns, answers and is kept.

Rules:
    * Pictures come as the dataset has them, uint8, and augmented; a learner brings them to the mean and the
      standard deviation of the training data itself, where it computes.
    * The loop decides the order, the learning rate, which epoch is the best, and what is written when;
      a learner knows none of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from controller.lifecycle.training.samples import Pixels
from runtime.manifest import Preprocess

__all__ = ["Batch", "Learner", "ResumableLearner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is learned in one step.

    Attributes:
        images: uint8, (n, h, w, 3), RGB.
        labels: int64, (n,).
        rate: The learning rate of this step.
    """

    images: Pixels
    labels: npt.NDArray[np.int64]
    rate: float


class Learner(Protocol):
    """A model of some framework, with what it needs to learn."""

    @property
    def framework(self) -> str:
        """The framework with its version: ``torch 2.13.0``."""

    @property
    def device(self) -> str:
        """Where it computes: ``cpu``, ``cuda``."""

    @property
    def preprocess(self) -> Preprocess:
        """How pictures are prepared for it."""

    def fit(self, batches: Iterator[Batch]) -> Iterator[tuple[float, int]]:
        """Learn the *batches* of one epoch; yield (mean loss, number of pictures) of what has been learned since.

        A learner that takes an epoch as a whole reads all of it, and yields once.
        """

    def scores(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Return logits (n, classes), or logarithms of probabilities, for uint8 *images* (n, h, w, 3)."""

    def save_best(self, path: Path) -> None:
        """Write the weights, with which the model can be opened again, to *path*, atomically."""


@runtime_checkable
class ResumableLearner(Learner, Protocol):
    """A learner that can go on where it was: every one whose framework has a file for that."""

    def save_last(self, path: Path, progress: Mapping[str, Any]) -> None:
        """Write *progress* (JSON values) and everything that the next epoch depends on to *path*, atomically."""

    def read_last(self, path: Path) -> Mapping[str, Any]:
        """Return what `save_last` wrote to *path*: the progress, and the rest under names of its own.

        Raises:
            TrainingError: It is absent or corrupt.
        """

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go back to the state of *content*, which `read_last` returned."""
