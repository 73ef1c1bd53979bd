"""Preprocessing by name, or from a file.

Rules:
    * A preset is a suggestion: its size yields to the graph's (`controller.lifecycle.preparation.fitting`).
    * A file is what one of `controller.lifecycle.preparation.preprocessors.READERS` knows; the manifest's
      ``preprocess`` object alone, as JSON, is Vedette's own.
    * docs/preprocessing.md has a row for every preset; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.moments import CLIP, HALF, IMAGENET
from controller.lifecycle.preparation.preprocessors import read_preprocess
from runtime.errors import UsageError
from runtime.manifest import Preprocess, Resize

__all__ = ["PRESETS", "resolve_preprocess"]

TO_UNIT = 1 / 255

PRESETS: Mapping[str, Suggestion] = {
    # torchvision's and timm's classifiers
    "imagenet": Suggestion(resize=Resize(size=256), crop=(224, 224), scale=TO_UNIT, **IMAGENET),
    # the whole picture with ImageNet's statistics, its aspect ratio not kept: SegFormer, PVT
    "imagenet-exact": Suggestion(resize=Resize(mode="exact", size=(224, 224)), scale=TO_UNIT, **IMAGENET),
    # OpenAI's CLIP and OpenCLIP, `_transform`
    "clip": Suggestion(resize=Resize(size=224, interpolation="bicubic"), crop=(224, 224), scale=TO_UNIT, **CLIP),
    # SigLIP and SigLIP 2 of fixed resolution, transformers' SiglipImageProcessor
    "siglip": Suggestion(resize=Resize(mode="exact", size=(224, 224), interpolation="bicubic"), scale=TO_UNIT, **HALF),
    # DINOv2, facebookresearch/dinov2 `make_classification_eval_transform`
    "dinov2": Suggestion(resize=Resize(size=256, interpolation="bicubic"), crop=(224, 224), scale=TO_UNIT, **IMAGENET),
    # Ultralytics' `LetterBox`: YOLOv5, YOLOv8 to YOLO26, and what was exported from them
    "yolo": Suggestion(resize=Resize(mode="letterbox", size=(640, 640), antialias=False), scale=TO_UNIT),
    # YOLOX 0.1.1 and later, `preproc`: pixels as they are, in OpenCV's order
    "yolox": Suggestion(
        color="BGR", resize=Resize(mode="letterbox", size=(640, 640), antialias=False, anchor="top-left")
    ),
    # RT-DETR, D-FINE, DEIM as deployed with OpenCV: a plain bilinear resize
    "coco-detr": Suggestion(resize=Resize(mode="exact", size=(640, 640), antialias=False), scale=TO_UNIT),
    # the same as trained: `Resize((640, 640))` on a PIL image, `ToTensor`
    "coco-detr-antialias": Suggestion(resize=Resize(mode="exact", size=(640, 640)), scale=TO_UNIT),
    # RF-DETR, and DETR exported with a fixed input
    "detr": Suggestion(resize=Resize(mode="exact", size=(640, 640)), scale=TO_UNIT, **IMAGENET),
    # U-2-Net as rembg runs it; its division by the brightest pixel is one by 255 here
    "u2net": Suggestion(
        resize=Resize(mode="exact", size=(320, 320), interpolation="lanczos"), scale=TO_UNIT, **IMAGENET
    ),
    # MoveNet, TensorFlow's `resize_with_pad`: pixels as they are
    "movenet": Suggestion(resize=Resize(mode="letterbox", size=(192, 192), antialias=False, pad=0)),
    # EfficientNet-Lite: (pixel - 127) / 128
    "efficientnet-lite": Suggestion(
        resize=Resize(size=256, antialias=False), crop=(224, 224), mean=(127.0,) * 3, std=(128.0,) * 3
    ),
    # the same numbers, the whole picture: quantized models of TensorFlow Lite and Coral
    "minus127": Suggestion(mean=(127.0,) * 3, std=(128.0,) * 3),
    # Caffe's means in Caffe's order: Keras' ResNet50 and VGG (`mode="caffe"`)
    "caffe": Suggestion(color="BGR", mean=(103.939, 116.779, 123.68)),
    # pixels as they are, 0 to 255: Keras models with their own rescaling, MLPerf Tiny
    "raw255": Suggestion(),
    # 0 to 1: torchvision's ToTensor without Normalize
    "unit": Suggestion(scale=TO_UNIT),
    # -1 to 1: TensorFlow's MobileNets and Inceptions
    "symmetric": Suggestion(scale=TO_UNIT, **HALF),
}


def resolve_preprocess(setting: str) -> Preprocess:
    """Return what *setting* means: a preset's name, or the path of a file.

    Returns:
        A `Suggestion` where it was not written for one graph.

    Raises:
        UsageError: It is neither, or the file says what cannot be done exactly.
    """
    if setting in PRESETS:
        return PRESETS[setting]
    path = Path(setting)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        known = ", ".join(PRESETS)
        raise UsageError(f"--preprocess {setting!r} is no preset ({known}) and no file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--preprocess {path} cannot be read as UTF-8 text: {error}") from None
    return read_preprocess(text, f"--preprocess {path}")
