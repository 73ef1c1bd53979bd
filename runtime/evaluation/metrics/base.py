"""What every task's judge gets and gives.

Rules:
    * A judge sees one image after the other and keeps what its figures need, never the pictures or the answers.
    * Figures that say how good answers are lie between 0 and 1, and more is better, unless `TITLES` says otherwise.
    * What is labelled may be less than what the model knows: means are taken over the classes that occur in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from runtime.manifest import Manifest
from runtime.tasks import Prediction

__all__ = [
    "ClassTable",
    "Confusion",
    "Figures",
    "Judge",
    "Metric",
    "Mistake",
    "TruthKind",
    "Verdict",
    "found_of",
    "mean_of",
]

TruthKind = Literal["label", "objects", "outlines", "keypoints", "mask", "matte"]
"""What must be known of an image: `runtime.evaluation.truth` says how it is read.

A label is an int; objects, outlines and keypoints are `Objects` that have them all; a mask is the class of each pixel,
int64 (H, W); a matte is how much each pixel is foreground, uint8 (H, W).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """Figures by class.

    Attributes:
        columns: What the numbers are.
        rows: By class, in the model's order: its name and a number for each column, NaN where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One class taken for another.

    Attributes:
        labelled: What it was.
        answered: What the model said.
        count: How often, in the unit of the `Confusion`.
        share: Of all that was labelled so, 0 to 1.
    """

    labelled: str
    answered: str
    count: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confusion:
    """What was taken for what.

    Attributes:
        labels: Names of the C classes.
        counts: int64, (C, C): row, what it was; column, what the model said.
        unit: What is counted: images, objects, pixels.
    """

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    unit: str

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """`counts` as shares of their rows, (C, C); 0 where a row is empty."""
        rows = self.counts.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(self.counts, rows, out=np.zeros(self.counts.shape), where=rows > 0))

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What was taken for something else, the most frequent first, of these the largest share first."""
        rows, columns = np.nonzero(self.counts * ~np.eye(len(self.labels), dtype=np.bool_))
        counts, shares = self.counts[rows, columns], self.shares[rows, columns]
        return tuple(
            Mistake(
                labelled=self.labels[rows[place]],
                answered=self.labels[columns[place]],
                count=int(counts[place]),
                share=float(shares[place]),
            )
            for place in np.lexsort((-shares, -counts))
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figures:
    """What a judge says in the end.

    Attributes:
        metrics: By name; the names are those of `runtime.evaluation.titles`.
        classes: By class, where there are classes.
        confusion: Where classes can be confused.
        notes: What a reader must know of the figures.
    """

    metrics: Mapping[str, float]
    classes: ClassTable | None = None
    confusion: Confusion | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one image went.

    Attributes:
        shown: The prediction as the model itself gives it, with its own thresholds.
        said: What is known of the image, or how well it was answered, for people.
        right: Whether the answer is right, where that is yes or no.
    """

    shown: Prediction
    said: str
    right: bool | None = None


class Judge(Protocol):
    """Compares predictions with what is true."""

    @property
    def changes(self) -> Mapping[str, Any]:
        """Fields of `Postprocess` with which predictions are to be made for it."""

    def add(self, prediction: Any, truth: Any, size: tuple[int, int]) -> Verdict:
        """Take the *prediction* for an image of *size* (height, width) whose *truth* is of the metric's kind."""

    def figures(self) -> Figures:
        """Return the figures of all images that were added, one at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a kind of answer is judged.

    Attributes:
        primary: Name of the figure by which variants are compared.
        truth: What must be known of each image.
        judge: Makes a new judge for a model.
        answer: Of a prediction as the model itself gives it (`Verdict.shown`): what it says, small.
        agreement: Of such answers of two models for the same images: how much they say the same, 0 to 1.
    """

    primary: str
    truth: TruthKind
    judge: Callable[[Manifest], Judge]
    answer: Callable[[Any], Any]
    agreement: Callable[[Sequence[Any], Sequence[Any]], float]


def found_of(right: int, wanted: int, what: str) -> str:
    """Return how many of the *wanted* things called *what* were found, in words."""
    return f"{right} of {wanted} {what} found" if wanted else f"no {what} labelled"


def mean_of(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Return the mean of those *values* that are numbers; NaN if none is."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")
