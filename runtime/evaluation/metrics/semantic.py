"""Semantic segmentation: intersection over union of each class, and their mean.

Rules:
    * Pixels are counted over the whole data, not image by image: TP / (TP + FP + FN), as PASCAL VOC does
      (Everingham et al., IJCV 111, 2015, section 4.3).
    * Pixels of class `IGNORE` in the truth count for nothing. The mean is over the classes that occur in the truth.
    * An answer that is no class of the model's (some mark pixels to ignore) is wrong, and of no class.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.evaluation.metrics.base import ClassTable, Confusion, Figures, Metric, Verdict, mean_of
from runtime.manifest import Manifest
from runtime.tasks import Segmentation

__all__ = ["IGNORE", "METRIC", "Packed", "SemanticJudge"]

IGNORE = 255
COLUMNS = ("iou", "recall", "precision", "pixels")


@dataclass(frozen=True, slots=True)
class Packed:
    """An array of one byte or two an element, compressed: masks of thousands of images stay small."""

    data: bytes
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Packed:
        """Pack *array*."""
        return cls(zlib.compress(np.ascontiguousarray(array).tobytes(), 1), array.shape, array.dtype.str)

    def array(self) -> npt.NDArray[Any]:
        """Return what was packed."""
        return np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.shape)


class SemanticJudge:
    """Counts pixels by what they are and what the model says they are."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = manifest.labels if len(manifest.labels) != 1 else ("background", *manifest.labels)
        count = len(self._labels) + 1  # the last is everything that is no class
        self._counts = np.zeros((count, count), np.int64)

    @property
    def changes(self) -> Mapping[str, Any]:
        """None: a mask has no scores."""
        return {}

    def add(self, prediction: Segmentation, truth: npt.NDArray[np.integer], size: tuple[int, int]) -> Verdict:  # noqa: ARG002
        """Take the *prediction* for an image whose pixels have the classes *truth*, (H, W)."""
        nothing, count = len(self._labels), len(self._labels) + 1
        counted = truth != IGNORE
        wanted = truth[counted].astype(np.int64)
        said = np.minimum(prediction.mask[counted].astype(np.int64), nothing)
        self._counts += np.bincount(wanted * count + said, minlength=count * count).reshape(count, count)
        share = float(np.mean(wanted == said)) if wanted.size else 0.0
        return Verdict(shown=prediction, said=f"{share:.1%} of the labelled pixels right")

    def figures(self) -> Figures:
        """Return the mean intersection over union, and the table of classes."""
        nothing = len(self._labels)
        right = np.diag(self._counts)[:nothing].astype(np.float64)
        support, said = self._counts.sum(axis=1)[:nothing], self._counts.sum(axis=0)[:nothing]
        with np.errstate(invalid="ignore"):
            by_class = np.stack([right / (support + said - right), right / support, right / said, support], axis=1)
        occurs = support > 0
        rows = tuple((label, tuple(map(float, row))) for label, row in zip(self._labels, by_class, strict=True))
        return Figures(
            metrics={
                "miou": mean_of(by_class[occurs, 0]),
                "pixel_accuracy": float(right.sum() / max(1, support.sum())),
                "mean_recall": mean_of(by_class[occurs, 1]),
            },
            classes=ClassTable(columns=COLUMNS, rows=rows),
            confusion=Confusion(labels=self._labels, counts=self._counts[:nothing, :nothing], unit="pixels"),
        )


def _agreement(ours: Sequence[Packed], theirs: Sequence[Packed]) -> float:
    """Return the share of all pixels that have the same class in both."""
    same = total = 0
    for one, other in zip(ours, theirs, strict=True):
        same += int(np.count_nonzero(one.array() == other.array()))
        total += int(np.prod(one.shape))
    return same / max(1, total)


METRIC = Metric(
    primary="miou",
    truth="mask",
    judge=SemanticJudge,
    answer=lambda prediction: Packed.of(prediction.mask),
    agreement=_agreement,
)
