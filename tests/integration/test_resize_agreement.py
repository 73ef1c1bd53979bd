"""What MobileNetV2 is given and answers, beside a plain script of Pillow and NumPy, on all shared photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps

from controller.lifecycle.preparation.presets import PRESETS
from runtime.images import read
from runtime.manifest import Tensor
from runtime.preprocess import Preprocessor, resize_and_crop

pytestmark = pytest.mark.integration

FOLDERS = ("images/imagenet300", "images/coco12", "images/coral")
PHOTOGRAPHS = {".jpg", ".jpeg", ".bmp", ".png"}
BATCH = 8


def plain_pixels(path: Path) -> np.ndarray:
    """Upright RGB, the shortest edge 256, a crop of 224, as uint8: Pillow's steps, one after the other."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    shortest = min(image.size)
    width, height = (int(256 * edge / shortest) if edge != shortest else 256 for edge in image.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))[top : top + 224, left : left + 224]


def plain_input(pixels: np.ndarray) -> np.ndarray:
    scaled = pixels.astype(np.float32) / 255
    normalized = (scaled - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return normalized.transpose(2, 0, 1).astype(np.float32)


def answers(session: onnxruntime.InferenceSession, inputs: list[np.ndarray]) -> Iterator[int]:
    name = session.get_inputs()[0].name
    for start in range(0, len(inputs), BATCH):
        yield from session.run(None, {name: np.stack(inputs[start : start + BATCH])})[0].argmax(axis=1)


def test_pixels_and_answers_are_those_of_plain_pillow(test_data: Callable[[str], Path]) -> None:
    files = [
        path for name in FOLDERS for path in sorted(test_data(name).iterdir()) if path.suffix.lower() in PHOTOGRAPHS
    ]
    assert len(files) >= 320
    imagenet = PRESETS["imagenet"].plain()
    tensor = Tensor(name="input", dtype="float32", shape=("N", 3, 224, 224))
    preprocessor = Preprocessor(imagenet, tensor)
    ours, theirs, differences = [], [], []
    for path in files:
        picture, expected = read(path).pixels, plain_pixels(path)
        differences.append(np.abs(resize_and_crop(picture, imagenet).astype(int) - expected).mean())
        ours.append(preprocessor(picture))
        theirs.append(plain_input(expected))
    assert np.mean(differences) <= 0.1
    assert np.mean(np.array(differences) == 0) >= 0.99  # bit for bit, where both decoders read the same
    session = onnxruntime.InferenceSession(test_data("models/mobilenet_v2.onnx"), providers=["CPUExecutionProvider"])
    agreeing = [a == b for a, b in zip(answers(session, ours), answers(session, theirs), strict=True)]
    assert np.mean(agreeing) >= 0.999
