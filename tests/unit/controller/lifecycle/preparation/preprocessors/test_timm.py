"""timm's documents, as its models publish them, against the transform that timm builds from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from controller.lifecycle.graph import ImageInput
from controller.lifecycle.preparation.fitting import Suggestion, complete
from controller.lifecycle.preparation.presets import resolve_preprocess
from runtime.errors import UsageError
from runtime.manifest import Resize

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
EFFICIENTNET_B0 = {
    "architecture": "efficientnet_b0",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "tag": "ra_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        **IMAGENET,
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}
RESNET50_A1 = {**EFFICIENTNET_B0["pretrained_cfg"], "test_input_size": [3, 288, 288], "test_crop_pct": 1.0} | {
    "crop_pct": 0.95
}
EVA02 = {
    "architecture": "eva02_base_patch14_448",
    "pretrained_cfg": {
        "input_size": [3, 448, 448],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}


def read(document: dict[str, Any], folder: Path) -> Suggestion:
    path = folder / "config.json"
    path.write_text(json.dumps(document))
    found = resolve_preprocess(str(path))
    assert isinstance(found, Suggestion)
    return found


def changed(**fields: Any) -> dict[str, Any]:
    return {**EFFICIENTNET_B0, "pretrained_cfg": {**EFFICIENTNET_B0["pretrained_cfg"], **fields}}


@pytest.mark.parametrize(
    ("document", "resize", "crop"),
    [
        (EFFICIENTNET_B0, Resize(size=256, interpolation="bicubic"), (224, 224)),
        (RESNET50_A1, Resize(size=235, interpolation="bicubic"), (224, 224)),
        (EVA02, Resize(mode="exact", size=(448, 448), interpolation="bicubic"), (448, 448)),
        (
            changed(input_size=[3, 256, 128], crop_mode="squash", crop_pct=0.9, interpolation="bilinear"),
            Resize(mode="exact", size=(284, 142)),
            (256, 128),
        ),
    ],
)
def test_published_documents_mean_what_timm_does(
    document: dict[str, Any], resize: Resize, crop: tuple[int, int], tmp_path: Path
) -> None:
    found = read(document, tmp_path)
    said = document.get("pretrained_cfg", document)
    assert (found.resize, found.crop) == (resize, crop)
    assert (list(found.mean), list(found.std)) == (said["mean"], said["std"])
    assert (found.color, found.scale) == ("RGB", 1 / 255)


@pytest.mark.parametrize("edge", range(96, 640, 32))
@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 1.0])
def test_a_graph_of_another_size_gets_timms_own_resize_for_it(edge: int, share: float, tmp_path: Path) -> None:
    graph = ImageInput(name="x", dtype="float32", layout="NCHW", batch="N", height=edge, width=edge, channels=3)
    fitted = complete(read(changed(crop_pct=share), tmp_path), graph)
    assert fitted.crop == (edge, edge)
    assert fitted.resize is not None
    assert fitted.resize.size == math.floor(edge / share)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (changed(crop_mode="border"), "crop_mode.*'border'"),
        (changed(interpolation="random"), "interpolation.*'random'"),
        (changed(input_size=[1, 28, 28]), "input_size.*1"),
        (changed(input_size=[3, 256, 128]), "expected a square"),
        (changed(crop_pct=0), "crop_pct"),
        (changed(std=[0, 1, 1]), "std"),
        ({"pretrained_cfg": {**IMAGENET}}, "input_size.*required"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_key(document: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"config\.json.*{says}"):
        read(document, tmp_path)
