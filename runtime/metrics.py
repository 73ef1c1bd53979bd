"""Figures of classes from counts, for whoever judges a model: the trainer on a test set, a batch job on its labels.

Precision of a class is the share of its answers that are right, recall the share of its images that are found, F1 their
harmonic mean, 2TP / (2TP + FP + FN): van Rijsbergen, Information Retrieval, 1979, chapter 7.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["precision_recall_f1"]

Counts = npt.NDArray[np.int64]


def precision_recall_f1(right: Counts, said: Counts, support: Counts) -> npt.NDArray[np.float64]:
    """Return (C, 4): precision, recall, F1 and support of each class.

    Precision is NaN where the class was never said, recall where it does not occur, F1 where neither.

    Args:
        right: (C,) images of the class that were answered with it.
        said: (C,) images that were answered with the class.
        support: (C,) images of the class.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([right / said, right / support, 2 * right / (said + support), support], axis=1)
