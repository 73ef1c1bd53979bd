"""Published networks of the test data as artifacts, and pictures with labels to judge them by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from artifact_of import artifact_of
from PIL import Image

from runtime.artifact import Artifact
from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.images import read
from runtime.manifest import Postprocess, Preprocess, Resize

__all__ = ["DETECTORS", "coral_masks", "detector", "pose_estimator", "segmenter"]

TestData = Callable[[str], Path]
"""The fixture `test_data`: where a file of the test data is."""

NANO = Preprocess(color="BGR", resize=Resize(mode="letterbox", size=(416, 416), anchor="top-left", antialias=False))
ATTO = Preprocess(resize=Resize(mode="exact", size=(320, 320), antialias=False), scale=1 / 255)
DETECTORS: Mapping[str, tuple[Preprocess, Postprocess]] = {
    "yolox_nano": (NANO, Postprocess(kind="yolox", activation="none", strides=(8, 16, 32))),
    "deimv2_atto": (ATTO, Postprocess(kind="boxes", activation="none", boxes="xyxy", score_threshold=0.4)),
}
"""By name of the file: of COCO's 80 classes."""

PASCAL_CLASSES = 21


def detector(test_data: TestData, root: Path, name: str = "yolox_nano", **fields: Any) -> Artifact:
    """Write one of `DETECTORS` to *root*, with other *fields* of its `Postprocess`."""
    preprocess, postprocess = DETECTORS[name]
    categories = json.loads(test_data("images/coco12/instances.json").read_text())["categories"]
    return artifact_of(
        {"fp32": test_data(f"models/{name}.onnx")},
        root,
        preprocess,
        postprocess.model_copy(update=fields),
        name=name,
        task="detection",
        labels=tuple(one["name"] for one in categories),
    )


def _pascal_labels(test_data: TestData) -> list[str]:
    lines = test_data("images/coral/pascal_voc_segmentation_labels.txt").read_text().splitlines()
    return lines[:PASCAL_CLASSES]


def segmenter(test_data: TestData, root: Path) -> Artifact:
    """Write DeepLabv3, of Pascal VOC's classes, to *root*."""
    return artifact_of(
        {"fp32": test_data("models/deeplabv3_pascal_uint8_nhwc.onnx")},
        root,
        Preprocess(resize=Resize(mode="exact", size=(513, 513))),
        Postprocess(kind="semantic", activation="none"),
        task="segmentation",
        labels=tuple(_pascal_labels(test_data)),
    )


def coral_masks(test_data: TestData, folder: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Write a bird and a dog, and masks in the classes of `segmenter`, to *folder*; return these, 255: unlabelled."""
    coral = test_data("images/coral")
    trimap = read(coral / "dog_segmentation_mask.bmp").pixels[..., 0]  # 0 is the dog, 1 is not, 2 is its border
    masks = {
        "bird": read(coral / "bird_segmentation_mask.bmp").pixels[..., 0],
        "dog": np.choose(trimap, (_pascal_labels(test_data).index("dog"), 0, 255)).astype(np.uint8),
    }
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for name, mask in masks.items():
        shutil.copy(coral / f"{name}_segmentation.bmp", folder / "images" / f"{name}.bmp")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return masks


def pose_estimator(test_data: TestData, root: Path) -> Artifact:
    """Write MoveNet, which finds one body, to *root*."""
    return artifact_of(
        {"fp32": test_data("models/movenet_lightning_nhwc.onnx")},
        root,
        Preprocess(resize=Resize(mode="exact", size=(192, 192))),
        Postprocess(kind="movenet", activation="none", keypoints=COCO_KEYPOINTS),
        task="pose",
    )
