"""How pictures are prepared where nobody says: certain for some makers, a hint for others.

Rules:
    * Only a file whose metadata name their maker gets a default: Ultralytics and YOLOv5 prepare pictures in
      one way. Whatever else is said is a hint in an error text.
    * A graph that takes any size gets the one that it was exported for, or the maker's usual one, and a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controller.lifecycle.graph import ImageInput
from controller.lifecycle.heads import Facts
from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.presets import PRESETS
from runtime.manifest import Preprocess, Resize, Task

__all__ = ["likely_presets", "makers_preprocess", "sized"]

YOLO_SIZE, CLASSIFIER_SIZE = 640, 224  # pixels; what Ultralytics exports if nobody says otherwise
CLASSIFIER = Suggestion(resize=Resize(size=CLASSIFIER_SIZE), crop=(CLASSIFIER_SIZE, CLASSIFIER_SIZE), scale=1 / 255)
"""Ultralytics' ``classify_transforms``: shortest edge, centre crop, no statistics."""

LIKELY: Mapping[str, tuple[str, ...]] = {
    # by head: presets in the order in which they should be tried
    "classification": ("imagenet", "efficientnet-lite"),
    "yolov8": ("yolo",),
    "yolov5": ("yolo",),
    "yolov8-seg": ("yolo",),
    "yolov5-seg": ("yolo",),
    "yolov8-pose": ("yolo",),
    "boxes-seg": ("yolo",),
    "boxes-pose": ("yolo",),
    "yolox": ("yolox",),
    "detr": ("coco-detr", "coco-detr-antialias", "detr"),
    "boxes": ("yolo", "coco-detr", "coco-detr-antialias"),
    "ssd": ("symmetric", "unit"),
    "semantic": ("imagenet-exact", "raw255"),
    "saliency": ("u2net", "imagenet-exact"),
    "movenet": ("movenet",),
    "embedding": ("clip", "dinov2", "imagenet"),
}


def likely_presets(head: str) -> tuple[str, ...]:
    """Return the presets that models of *head* are mostly prepared with, likeliest first."""
    return tuple(name for name in LIKELY.get(head, ()) if name in PRESETS)


def sized(found: ImageInput, facts: Facts, task: Task) -> tuple[ImageInput, str | None]:
    """Return *found* with the size that a known maker uses a graph of any size with, and a note if one was chosen."""
    if isinstance(found.height, int) and isinstance(found.width, int):
        return found, None
    if facts.size is None and not facts.maker:
        return found, None
    usual = CLASSIFIER_SIZE if task == "classification" else YOLO_SIZE
    height, width = facts.size or (usual, usual)
    height = found.height if isinstance(found.height, int) else height
    width = found.width if isinstance(found.width, int) else width
    why = "which its metadata name" if facts.size else f"as {facts.maker} does"
    note = f"the graph takes pictures of any size: {height}x{width} is used, {why}"
    return replace(found, height=height, width=width), note


def makers_preprocess(facts: Facts, task: Task) -> Preprocess | None:
    """Return how the maker that the metadata name prepares pictures, sizes to be fitted; ``None``: unknown.

    YOLOv5's classifiers have ImageNet's statistics, but their metadata do not tell them from its detectors.
    """
    if task in {"detection", "segmentation", "pose"} and facts.maker:
        return PRESETS["yolo"]
    if task == "classification" and facts.maker == "ultralytics":
        return CLASSIFIER
    return None
