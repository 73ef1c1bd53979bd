"""How good answers are: one module a kind of answer, pure, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.evaluation.metrics import (
    classification,
    detection,
    embedding,
    instances,
    pose,
    saliency,
    semantic,
)
from runtime.evaluation.metrics.base import (
    ClassTable,
    Confusion,
    Figures,
    Judge,
    Metric,
    TruthKind,
    Verdict,
)
from runtime.tasks import (
    Classification,
    Detections,
    Embedding,
    Instances,
    Matte,
    Poses,
    Prediction,
    Segmentation,
)

__all__ = ["METRICS", "ClassTable", "Confusion", "Figures", "Judge", "Metric", "TruthKind", "Verdict"]

METRICS: Mapping[type[Prediction], Metric] = {
    Classification: classification.METRIC,
    Detections: detection.METRIC,
    Instances: instances.METRIC,
    Segmentation: semantic.METRIC,
    Matte: saliency.METRIC,
    Poses: pose.METRIC,
    Embedding: embedding.METRIC,
}
"""By what a head gives for an image."""
