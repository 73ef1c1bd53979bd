"""Saliency and matting: how far the matte is from the truth, and how well it can be cut at its best threshold.

Rules:
    * ``mae`` is the mean absolute difference of matte and truth as shares, a mean over images; less is better.
    * ``max_f`` is the largest F measure over 256 thresholds, of the means over images of precision and recall at each,
      with beta squared 0.3: Achanta et al., CVPR 2009, and Borji et al., IEEE TIP 24, 2015, section III.
      Images of which nothing is foreground have no recall and do not count in it.
    * ``iou`` is that of the pixels above one half, a mean over the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.evaluation.metrics.base import Figures, Metric, Verdict
from runtime.evaluation.metrics.semantic import Packed
from runtime.manifest import Manifest
from runtime.tasks import Matte

__all__ = ["METRIC", "SaliencyJudge"]

BETA_SQUARED = 0.3
LEVELS = 256
HALF = 128  # grey level; the first above one half


class SaliencyJudge:
    """Compares mattes pixel by pixel."""

    def __init__(self, _: Manifest) -> None:
        self._images = self._with_foreground = 0
        self._error = self._iou = 0.0  # sums
        self._curve = np.zeros((2, LEVELS))  # sums of precision and recall

    @property
    def changes(self) -> Mapping[str, Any]:
        """None: a matte has no threshold."""
        return {}

    def add(self, prediction: Matte, truth: npt.NDArray[np.uint8], size: tuple[int, int]) -> Verdict:  # noqa: ARG002
        """Take the *prediction* for an image of which *truth*, uint8 (H, W), is the matte."""
        difference = np.abs(prediction.mask.astype(np.int16) - truth)
        error = float(difference.mean()) / (LEVELS - 1)
        self._images += 1
        self._error += error
        foreground = truth >= HALF
        said = f"off by {error:.1%} a pixel"
        if foreground.any():
            cut = prediction.mask >= HALF
            iou = np.count_nonzero(cut & foreground) / np.count_nonzero(cut | foreground)
            self._with_foreground += 1
            self._curve += _curve(prediction.mask, foreground)
            self._iou += iou
            said += f", overlap {iou:.1%}"
        return Verdict(shown=prediction, said=said)

    def figures(self) -> Figures:
        """Return the errors and overlaps."""
        counted = self._with_foreground or float("nan")
        metrics = {
            "max_f": _max_f(self._curve / counted),
            "mae": self._error / self._images,
            "iou": self._iou / counted,
        }
        empty = self._images - self._with_foreground
        notes = (f"{empty} images without a foreground do not count in max_f and iou",) if empty else ()
        return Figures(metrics=metrics, notes=notes)


def _curve(matte: npt.NDArray[np.uint8], foreground: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return precision (1 where nothing is said) and recall, (2, LEVELS), of the pixels at or above each level."""
    inside = np.bincount(matte[foreground], minlength=LEVELS)[::-1].cumsum()[::-1]
    outside = np.bincount(matte[~foreground], minlength=LEVELS)[::-1].cumsum()[::-1]
    said = inside + outside
    precision = np.divide(inside, said, out=np.ones(LEVELS), where=said > 0)
    return np.stack([precision, inside / inside[0]])


def _max_f(curve: npt.NDArray[np.float64]) -> float:
    """Return the largest F measure of precision and recall, (2, LEVELS); NaN if there are none."""
    precision, recall = curve
    if np.isnan(curve).any():
        return float("nan")
    below = BETA_SQUARED * precision + recall
    measures = np.divide((1 + BETA_SQUARED) * precision * recall, below, out=np.zeros(LEVELS), where=below > 0)
    return float(measures[1:].max())  # at or above level 0 lies every pixel of every matte


def _agreement(ours: Sequence[Packed], theirs: Sequence[Packed]) -> float:
    """Return the share of all pixels that are on the same side of one half in both."""
    same = total = 0
    for one, other in zip(ours, theirs, strict=True):
        same += int(np.count_nonzero((one.array() >= HALF) == (other.array() >= HALF)))
        total += int(np.prod(one.shape))
    return same / max(1, total)


METRIC = Metric(
    primary="max_f",
    truth="matte",
    judge=SaliencyJudge,
    answer=lambda prediction: Packed.of(prediction.mask),
    agreement=_agreement,
)
