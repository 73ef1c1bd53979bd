"""Vision tasks: from a model's outputs to predictions, by one table of heads.

Rules:
    * `Postprocess.kind` names the head; each module of this package brings its own rows of `HEADS`.
    * A head reads the manifest and the outputs, and nothing else: the same answer everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.tasks import classification, detection, embedding, instances, movenet, saliency, semantic, yolo_pose
from runtime.tasks.base import Head, Outputs
from runtime.tasks.results import (
    Classification,
    ClassPixels,
    Detection,
    Detections,
    Embedding,
    Instance,
    Instances,
    Keypoint,
    LabelScore,
    Matte,
    Pose,
    Poses,
    Prediction,
    Segmentation,
)

__all__ = [
    "HEADS",
    "ClassPixels",
    "Classification",
    "Detection",
    "Detections",
    "Embedding",
    "Head",
    "Instance",
    "Instances",
    "Keypoint",
    "LabelScore",
    "Matte",
    "Outputs",
    "Pose",
    "Poses",
    "Prediction",
    "Segmentation",
    "head_of",
]

HEADS: Mapping[str, Head] = {
    **classification.HEADS,
    **detection.HEADS,
    **instances.HEADS,
    **semantic.HEADS,
    **saliency.HEADS,
    **yolo_pose.HEADS,
    **movenet.HEADS,
    **embedding.HEADS,
}
"""By `Postprocess.kind`."""


def head_of(manifest: Manifest) -> Head:
    """Return the head that *manifest* names.

    Raises:
        ModelError: This version of Vedette has none of that name.
    """
    kind = manifest.postprocess.kind
    if kind not in HEADS:
        raise ModelError(f"{manifest.reference}: postprocess kind {kind!r} is not one of {', '.join(HEADS)}")
    return HEADS[kind]
