"""transformers' documents, as their models publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.presets import resolve_preprocess
from runtime.errors import UsageError
from runtime.manifest import Resize
from runtime.preprocess import normalize

HALF = [0.5, 0.5, 0.5]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
DEFAULT = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
STANDARD = {"image_mean": HALF, "image_std": HALF}
NORMALIZED = {"do_normalize": True, "do_resize": True}
RESCALED = {**NORMALIZED, "do_rescale": True, "rescale_factor": 0.00392156862745098}


def square(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


VIT_1 = {**NORMALIZED, **STANDARD, "size": 224}  # the first that were published say no class
VIT_2 = {**NORMALIZED, **STANDARD, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 224}
SWIN = {
    **RESCALED,
    **DEFAULT,
    "_valid_processor_keys": ["images", "do_resize", "size"],
    "do_convert_rgb": None,
    "image_processor_type": "ViTImageProcessorFast",
    "resample": 3,
    "size": square(256),
}
CLIP_OLD = {
    **NORMALIZED,
    "crop_size": 224,
    "do_center_crop": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "resample": 3,
    "size": 224,
}
CLIP_NEW = {
    **RESCALED,
    "crop_size": square(336),
    "do_center_crop": True,
    "do_convert_rgb": True,
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "processor_class": "CLIPProcessor",
    "resample": 3,
    "size": {"shortest_edge": 336},
}
CONVNEXT = {
    **NORMALIZED,
    **DEFAULT,
    "crop_pct": 0.875,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "resample": 3,
    "size": 224,
}
RESNET = {
    **RESCALED,
    **DEFAULT,
    "crop_pct": 0.875,
    "image_processor_type": "ConvNextImageProcessor",
    "resample": 3,
    "size": {"shortest_edge": 224},
}
DEIT = {
    **NORMALIZED,
    **DEFAULT,
    "crop_size": 224,
    "do_center_crop": True,
    "feature_extractor_type": "DeiTFeatureExtractor",
    "resample": 3,
    "size": 256,
}
BEIT = {
    **NORMALIZED,
    **STANDARD,
    "crop_size": 224,
    "do_center_crop": False,
    "feature_extractor_type": "BeitFeatureExtractor",
    "reduce_labels": False,
    "resample": 2,
    "size": 224,
}
DINOV2 = {
    **RESCALED,
    **DEFAULT,
    "crop_size": square(224),
    "do_center_crop": True,
    "do_convert_rgb": True,
    "image_processor_type": "BitImageProcessor",
    "resample": 3,
    "size": {"shortest_edge": 256},
}
SIGLIP = {
    **RESCALED,
    **STANDARD,
    "image_processor_type": "SiglipImageProcessor",
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "size": square(224),
}
SEGFORMER = {
    **NORMALIZED,
    **DEFAULT,
    "feature_extractor_type": "SegformerFeatureExtractor",
    "reduce_labels": True,
    "resample": 2,
    "size": 512,
}
MOBILENET = {
    **RESCALED,
    **STANDARD,
    "crop_size": square(224),
    "do_center_crop": True,
    "image_processor_type": "MobileNetV2ImageProcessor",
    "resample": 2,
    "size": {"shortest_edge": 256},
}
MOBILEVIT = {
    "crop_size": square(256),
    "do_center_crop": True,
    "do_flip_channel_order": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "MobileViTFeatureExtractor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 288},
}
RT_DETR = {
    **DEFAULT,
    "do_convert_annotations": True,
    "do_normalize": False,
    "do_pad": False,
    "do_rescale": True,
    "do_resize": True,
    "format": "coco_detection",
    "image_processor_type": "RTDetrImageProcessor",
    "pad_size": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": square(640),
}
DETR_FIXED = {
    **RESCALED,
    **DEFAULT,
    "do_pad": True,
    "format": "coco_panoptic",
    "image_processor_type": "DetrImageProcessor",
    "resample": 2,
    "size": square(1024),
}
DINOV3 = {
    **RESCALED,
    **DEFAULT,
    "crop_size": None,
    "data_format": "channels_first",
    "do_center_crop": None,
    "image_processor_type": "DINOv3ViTImageProcessorFast",
    "resample": 2,
    "size": square(224),
}
IN_PROCESSOR = {"image_processor": SIGLIP, "processor_class": "SiglipProcessor"}  # processor_config.json
TRANSFORMERS_JS = {**RESCALED, **DEFAULT, "feature_extractor_type": "ImageFeatureExtractor", "resample": 2} | {
    "size": {"width": 1024, "height": 768}
}


def read(document: dict[str, Any], folder: Path) -> Suggestion:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(document))
    found = resolve_preprocess(str(path))
    assert isinstance(found, Suggestion)
    return found


def exact(size: tuple[int, int], interpolation: str) -> Resize:
    return Resize(mode="exact", size=size, interpolation=interpolation)


@pytest.mark.parametrize(
    ("document", "resize", "crop", "mean", "std"),
    [
        (VIT_1, exact((224, 224), "bilinear"), None, HALF, HALF),
        (VIT_2, exact((224, 224), "bilinear"), None, HALF, HALF),
        (SWIN, exact((256, 256), "bicubic"), None, IMAGENET_MEAN, IMAGENET_STD),
        (CLIP_OLD, Resize(size=224, interpolation="bicubic"), (224, 224), CLIP_MEAN, CLIP_STD),
        (CLIP_NEW, Resize(size=336, interpolation="bicubic"), (336, 336), CLIP_MEAN, CLIP_STD),
        (CONVNEXT, Resize(size=256, interpolation="bicubic"), (224, 224), IMAGENET_MEAN, IMAGENET_STD),
        (RESNET, Resize(size=256, interpolation="bicubic"), (224, 224), IMAGENET_MEAN, IMAGENET_STD),
        ({**CONVNEXT, "size": 384}, exact((384, 384), "bicubic"), None, IMAGENET_MEAN, IMAGENET_STD),
        (DEIT, exact((256, 256), "bicubic"), (224, 224), IMAGENET_MEAN, IMAGENET_STD),
        (BEIT, exact((224, 224), "bilinear"), None, HALF, HALF),
        (DINOV2, Resize(size=256, interpolation="bicubic"), (224, 224), IMAGENET_MEAN, IMAGENET_STD),
        (DINOV3, exact((224, 224), "bilinear"), None, IMAGENET_MEAN, IMAGENET_STD),
        (SIGLIP, exact((224, 224), "bicubic"), None, HALF, HALF),
        (IN_PROCESSOR, exact((224, 224), "bicubic"), None, HALF, HALF),
        (SEGFORMER, exact((512, 512), "bilinear"), None, IMAGENET_MEAN, IMAGENET_STD),
        (MOBILENET, Resize(size=256), (224, 224), HALF, HALF),
        (MOBILEVIT, Resize(size=288), (256, 256), [0, 0, 0], [1, 1, 1]),
        (RT_DETR, exact((640, 640), "bilinear"), None, [0, 0, 0], [1, 1, 1]),
        (DETR_FIXED, exact((1024, 1024), "bilinear"), None, IMAGENET_MEAN, IMAGENET_STD),
        (TRANSFORMERS_JS, exact((768, 1024), "bilinear"), None, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_published_documents_mean_what_transformers_does(
    document: dict[str, Any],
    resize: Resize,
    crop: tuple[int, int] | None,
    mean: list[float],
    std: list[float],
    tmp_path: Path,
) -> None:
    found = read(document, tmp_path)
    assert found.resize == resize
    assert found.crop == crop
    assert list(found.mean) == mean
    assert list(found.std) == std
    assert found.scale == pytest.approx(1 / 255)
    assert found.color == ("BGR" if document is MOBILEVIT else "RGB")
    assert not found.embedded


def test_a_class_alone_means_its_defaults(tmp_path: Path) -> None:
    found = read({"image_processor_type": "ConvNextImageProcessor", "do_resize": True}, tmp_path)
    assert found.resize == exact((384, 384), "bilinear")
    found = read({"image_processor_type": "PoolFormerImageProcessor"}, tmp_path)
    assert (found.resize, found.crop) == (Resize(size=248, interpolation="bicubic"), (224, 224))
    found = read({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": None}, tmp_path)
    assert (found.resize, found.crop) == (Resize(size=224, interpolation="bicubic"), (224, 224))
    found = read({"image_processor_type": "LevitImageProcessor"}, tmp_path)
    assert (found.resize, found.crop) == (Resize(size=256, interpolation="bicubic"), (224, 224))
    assert read({"image_processor_type": "EfficientNetImageProcessor"}, tmp_path).resize == exact((346, 346), "nearest")


def test_steps_that_are_switched_off_are_left_out(tmp_path: Path) -> None:
    found = read({**SIGLIP, "do_resize": False, "do_rescale": False}, tmp_path)
    assert (found.resize, found.crop, found.scale) == (None, None, 1.0)
    assert list(found.mean) == HALF


@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("normalizes", [True, False])
def test_efficientnets_own_steps_give_its_numbers(
    include_top: bool, offset: bool, normalizes: bool, tmp_path: Path
) -> None:
    std = [0.47853944, 0.4732864, 0.47434163]
    document = {
        "do_normalize": normalizes,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": IMAGENET_MEAN,
        "image_processor_type": "EfficientNetImageProcessor",
        "image_std": std,
        "include_top": include_top,
        "resample": 0,
        "rescale_factor": 1 / 127.5 if offset else 1 / 255,
        "rescale_offset": offset,
        "size": square(300),
    }
    pixels = np.arange(0, 255, 5, dtype=np.uint8).reshape(-1, 3)
    expected = (pixels - 127.5) / 127.5 if offset else pixels / 255
    if normalizes:
        expected = (expected - IMAGENET_MEAN) / std
    if include_top:
        expected = expected / std
    np.testing.assert_allclose(normalize(pixels, read(document, tmp_path)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**DETR_FIXED, "size": {"shortest_edge": 800, "longest_edge": 1333}}, "size is .*longest edge"),
        (
            {**NORMALIZED, "feature_extractor_type": "DetrFeatureExtractor", "size": 800, "max_size": 1333},
            "max_size is",
        ),
        ({"image_processor_type": "YolosImageProcessor"}, "size is .*shortest_edge.*longest_edge"),
        ({**SIGLIP, "image_processor_type": "SamImageProcessor"}, "image processor is SamImageProcessor, .* not known"),
        ({**SIGLIP, "do_thumbnail": True}, "do_thumbnail is True"),
        ({**SIGLIP, "size_divisor": 32}, "size_divisor is 32"),
        ({**SIGLIP, "do_flip_channel_order": True}, "do_flip_channel_order is True"),
        ({**SIGLIP, "resample": 4}, r"resample is 4; expected 0 \(nearest\), 1 \(lanczos\)"),
        ({**SIGLIP, "size": {"longest_edge": 512}}, "size is"),
        ({**SIGLIP, "size": "large"}, "size"),
        ({**SIGLIP, "size": square(0)}, "size"),
        ({**SIGLIP, "image_mean": [0.5, 0.5]}, "expected three numbers"),
        ({**SIGLIP, "image_std": [0.0, 1.0, 1.0]}, "std not 0"),
        ({**DETR_FIXED, "pad_size": square(1333)}, "pad_size is"),
        ({**DETR_FIXED, "size": {"shortest_edge": 800}}, "do_pad is True"),
        (
            {**NORMALIZED, **STANDARD, "size": 224, "do_center_crop": True, "crop_size": 224, "resample": 2},
            "size is 224, and no image_processor_type says",
        ),
        ({**RESCALED, "size": square(224), "resample": 2}, r"image_mean is \(\)"),
        ({**RESCALED, **STANDARD, "size": square(224)}, "resample is None"),
        ({**CLIP_NEW, "crop_size": {"shortest_edge": 224}}, "crop_size is"),
        (
            {"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True},
            "rescale_offset is true and rescale_factor 0.00392157; expected 1/127.5",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_key(document: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"preprocessor_config\.json(?s:.*){says}"):
        read(document, tmp_path)
