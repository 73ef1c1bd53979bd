"""What torchvision prints of its transforms, and timm of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.lifecycle.preparation.fitting import Suggestion
from controller.lifecycle.preparation.presets import resolve_preprocess
from runtime.errors import UsageError
from runtime.manifest import Resize

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NOTHING = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

RESNET50_V2 = """\
ImageClassification(
    crop_size=[224]
    resize_size=[232]
    mean=[0.485, 0.456, 0.406]
    std=[0.229, 0.224, 0.225]
    interpolation=InterpolationMode.BILINEAR
)
"""
VIT_SWAG = """
ImageClassification(crop_size=[384], resize_size=[384], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
                    interpolation=InterpolationMode.BICUBIC)"""
AS_JSON = '{"crop_size": [480], "resize_size": 480, "interpolation": "bicubic"}'
DEEPLAB = """\
SemanticSegmentation(
    resize_size=[520]
    mean=[0.485, 0.456, 0.406]
    std=[0.229, 0.224, 0.225]
    interpolation=InterpolationMode.BILINEAR
)"""
COMPOSED = """\
Compose(
    Resize(size=256, interpolation=bilinear, max_size=None, antialias=True)
    CenterCrop(size=(224, 224))
    ToTensor()
    Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
)"""
OF_TIMM = """\
Compose(
    Resize(size=248, interpolation=bicubic, max_size=None, antialias=True)
    CenterCrop(size=(224, 224))
    MaybeToTensor()
    Normalize(mean=tensor([0.5000, 0.5000, 0.5000]), std=tensor([0.5000, 0.5000, 0.5000]))
)"""
VERSION_2 = """\
Compose(
      Resize(size=[640, 480], interpolation=InterpolationMode.BILINEAR, antialias=True)
      ToImage()
      ToDtype(scale=True)
)"""
AS_CODE = "transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])"


def read(text: str, folder: Path) -> Suggestion:
    path = folder / "transforms.txt"
    path.write_text(text)
    found = resolve_preprocess(str(path))
    assert isinstance(found, Suggestion)
    return found


@pytest.mark.parametrize(
    ("text", "resize", "crop", "moments"),
    [
        (RESNET50_V2, Resize(size=232), (224, 224), IMAGENET),
        (VIT_SWAG, Resize(size=384, interpolation="bicubic"), (384, 384), IMAGENET),
        (AS_JSON, Resize(size=480, interpolation="bicubic"), (480, 480), IMAGENET),
        (DEEPLAB, Resize(size=520), None, IMAGENET),
        ("ObjectDetection()", None, None, NOTHING),
        (COMPOSED, Resize(size=256), (224, 224), IMAGENET),
        (OF_TIMM, Resize(size=248, interpolation="bicubic"), (224, 224), ((0.5,) * 3, (0.5,) * 3)),
        (VERSION_2, Resize(mode="exact", size=(640, 480)), None, NOTHING),
        (AS_CODE, Resize(size=256), (224, 224), NOTHING),
    ],
)
def test_printed_transforms_mean_what_they_do(
    text: str,
    resize: Resize | None,
    crop: tuple[int, int] | None,
    moments: tuple[tuple[float, ...], tuple[float, ...]],
    tmp_path: Path,
) -> None:
    found = read(text, tmp_path)
    assert (found.resize, found.crop) == (resize, crop)
    assert (found.mean, found.std) == moments
    assert found.scale == 1 / 255


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (COMPOSED.replace("CenterCrop(size=(224, 224))", "RandomErasing(p=0.5)"), "step RandomErasing cannot be"),
        (COMPOSED.replace("max_size=None", "max_size=1333"), "max_size 1333"),
        (COMPOSED.replace("antialias=True", "antialias=False"), "antialias is False"),
        (COMPOSED.replace("    ToTensor()\n", ""), "Normalize comes without ToTensor"),
        ("Compose(CenterCrop(224), Resize(256), ToTensor())", "step Resize comes too late"),
        (VERSION_2.replace("scale=True", "scale=False"), "ToDtype has scale False"),
        (RESNET50_V2.replace("crop_size", "crop"), "ImageClassification has no crop; it has"),
        (RESNET50_V2.replace("BILINEAR", "HAMMING"), "interpolation"),
        ("VideoClassification(crop_size=[112, 112])", "transform VideoClassification is not known"),
        ("Compose(Normalize(mean=[0.5]))", "Normalize needs mean and std"),
        ("Compose(Resize(size=__import__('os').getpid()), ToTensor())", "not valid"),
        ("Resize(256", "neither JSON nor what torchvision prints"),
        ("ImageClassification(crop_size=1 + x)", "neither JSON nor what torchvision prints"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_name(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"transforms\.txt.*{says}"):
        read(text, tmp_path)
