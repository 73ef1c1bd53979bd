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

from controller.lifecycle.evaluation.metrics.base import Figures, Metric, Verdict, mean_of
from controller.lifecycle.evaluation.metrics.semantic import Packed
from runtime.manifest import Manifest
from runtime.tasks import Matte

__all__ = ["METRIC", "SaliencyJudge"]

BETA_SQUARED = 0.3
LEVELS = 256
HALF = 128  # grey level; the first above one half


class SaliencyJudge:
    """Compares mattes pixel by pixel."""

    def __init__(self, _: Manifest) -> None:
        self._errors: list[float] = []
        self._ious: list[float] = []
        self._curves: list[npt.NDArray[np.float64]] = []  # (2, LEVELS) precision and recall
        self._answers: list[Packed] = []

    @property
    def changes(self) -> Mapping[str, Any]:
        """None: a matte has no threshold."""
        return {}

    def add(self, prediction: Matte, truth: npt.NDArray[np.uint8], size: tuple[int, int]) -> Verdict:  # noqa: ARG002
        """Take the *prediction* for an image of which *truth*, uint8 (H, W), is the matte."""
        difference = np.abs(prediction.mask.astype(np.int16) - truth)
        self._errors.append(float(difference.mean()) / (LEVELS - 1))
        self._answers.append(Packed.of(prediction.mask))
        foreground = truth >= HALF
        said = f"off by {self._errors[-1]:.1%} a pixel"
        if foreground.any():
            self._curves.append(_curve(prediction.mask, foreground))
            cut = prediction.mask >= HALF
            self._ious.append(np.count_nonzero(cut & foreground) / np.count_nonzero(cut | foreground))
            said += f", overlap {self._ious[-1]:.1%}"
        return Verdict(shown=prediction, said=said)

    def figures(self) -> Figures:
        """Return the errors and overlaps."""
        metrics = {"max_f": _max_f(self._curves), "mae": float(np.mean(self._errors)), "iou": mean_of(self._ious)}
        empty = len(self._errors) - len(self._curves)
        notes = (f"{empty} images without a foreground do not count in max_f and iou",) if empty else ()
        return Figures(metrics=metrics, answers=tuple(self._answers), notes=notes)


def _curve(matte: npt.NDArray[np.uint8], foreground: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return precision (1 where nothing is said) and recall, (2, LEVELS), of the pixels at or above each level."""
    inside = np.bincount(matte[foreground], minlength=LEVELS)[::-1].cumsum()[::-1]
    outside = np.bincount(matte[~foreground], minlength=LEVELS)[::-1].cumsum()[::-1]
    said = inside + outside
    precision = np.divide(inside, said, out=np.ones(LEVELS), where=said > 0)
    return np.stack([precision, inside / inside[0]])


def _max_f(curves: Sequence[npt.NDArray[np.float64]]) -> float:
    if not curves:
        return float("nan")
    precision, recall = np.mean(curves, axis=0)
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


METRIC = Metric(primary="max_f", truth="matte", judge=SaliencyJudge, agreement=_agreement)
