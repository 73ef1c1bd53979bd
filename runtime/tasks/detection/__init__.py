"""Detection: from a model's outputs to boxes in pixels of the upright original.

The order of work is the same for every head, and each step is a module:

    given        outputs found by role, checked, refused by name
    candidates   scores, thresholds, classes: which rows are objects
    boxes        corners, pixels of the input, suppression, the way back to the original
    yolo, pairs, finished   the heads themselves, by what their graphs give

Scores and boxes of thousands of rows stay arrays; only what is answered becomes objects.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.tasks.base import Head
from runtime.tasks.detection import finished, pairs, yolo

__all__ = ["HEADS"]

HEADS: Mapping[str, Head] = {**yolo.HEADS, **pairs.HEADS, **finished.HEADS}
