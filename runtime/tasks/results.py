"""What a model says about one image: one result type a kind of answer, and the union of them all.

Coordinates are pixels of the upright original, x to the right and y downwards from its upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "ClassPixels",
    "Classification",
    "Detection",
    "Detections",
    "Embedding",
    "Instance",
    "Instances",
    "Keypoint",
    "LabelScore",
    "Matte",
    "Pose",
    "Poses",
    "Prediction",
    "Segmentation",
]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One class and how sure the model is of it."""

    label_id: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """What one image shows: the best class, and the best `k` of them, best first."""

    label_id: int
    label: str
    score: float
    top_k: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object and the box around it."""

    label_id: int
    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects in one image, surest first."""

    detections: tuple[Detection, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object, its box, and which pixels are its own.

    Attributes:
        left: Column of the original where *mask* begins.
        top: Row of the original where *mask* begins.
        mask: bool, (h, w): the pixels of the box's rectangle, True where they belong to the object.
    """

    label_id: int
    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float
    left: int
    top: int
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Instances:
    """The objects in one image with their masks, surest first."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class ClassPixels:
    """How much of an image a class covers."""

    label_id: int
    label: str
    pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The class of each pixel of one image.

    Attributes:
        mask: uint8 or uint16, (H, W) of the original: index of the class.
        classes: Those that occur, most pixels first.
    """

    mask: npt.NDArray[np.unsignedinteger]
    classes: tuple[ClassPixels, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Matte:
    """How much each pixel of one image belongs to what it shows (saliency, matting).

    Attributes:
        mask: uint8, (H, W) of the original: 0 is background, 255 foreground.
        coverage: Mean of the mask as a share, 0 to 1.
    """

    mask: npt.NDArray[np.uint8]
    coverage: float


@dataclass(frozen=True, slots=True)
class Keypoint:
    """One point of a body, and how sure the model is of it."""

    x: float
    y: float
    score: float


@dataclass(frozen=True, slots=True)
class Pose:
    """One body: its box, and its keypoints in the order of the manifest's names."""

    score: float
    x1: float
    y1: float
    x2: float
    y2: float
    keypoints: tuple[Keypoint, ...]


@dataclass(frozen=True, slots=True)
class Poses:
    """The bodies in one image, surest first."""

    poses: tuple[Pose, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One image as a vector.

    Attributes:
        embedding: float32, (D,), of length 1: the dot product of two is their cosine similarity.
    """

    embedding: npt.NDArray[np.float32]


Prediction = Classification | Detections | Instances | Segmentation | Matte | Poses | Embedding
"""What a model says about one image."""
