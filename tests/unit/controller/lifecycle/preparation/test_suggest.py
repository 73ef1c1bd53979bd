"""How pictures are prepared where only the file's maker is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.lifecycle.graph import ImageInput
from controller.lifecycle.heads import Facts
from controller.lifecycle.preparation.fitting import complete
from controller.lifecycle.preparation.presets import PRESETS
from controller.lifecycle.preparation.suggest import LIKELY, likely_presets, makers_preprocess, sized
from runtime.manifest import Resize, Task
from runtime.tasks import HEADS

ANY = ImageInput(name="x", dtype="float32", layout="NCHW", batch="N", height="h", width="w", channels=3)
FIXED = replace(ANY, height=320, width=640)
ULTRALYTICS = Facts(maker="ultralytics", labels=("a",))


def test_hints_are_of_heads_and_presets_that_there_are() -> None:
    assert LIKELY.keys() <= HEADS.keys()
    for head, names in LIKELY.items():
        assert set(names) <= PRESETS.keys()
        assert likely_presets(head) == names
    assert likely_presets("unknown") == ()


@pytest.mark.parametrize(
    ("found", "facts", "task", "size"),
    [
        (FIXED, ULTRALYTICS, "detection", (320, 640)),
        (ANY, replace(ULTRALYTICS, size=(96, 160)), "detection", (96, 160)),
        (ANY, ULTRALYTICS, "pose", (640, 640)),
        (ANY, ULTRALYTICS, "classification", (224, 224)),
        (replace(ANY, height=320), ULTRALYTICS, "detection", (320, 640)),
        (ANY, Facts(), "detection", ("h", "w")),
    ],
)
def test_size_is_the_graphs_or_the_makers(
    found: ImageInput, facts: Facts, task: Task, size: tuple[int | str, int | str]
) -> None:
    chosen, note = sized(found, facts, task)
    assert (chosen.height, chosen.width) == size
    assert (note is None) == ((found.height, found.width) == size)


def test_makers_prepare_pictures_in_one_way() -> None:
    detector = makers_preprocess(ULTRALYTICS, "detection")
    assert detector is not None
    ready = complete(detector, FIXED)
    assert ready.resize == Resize(mode="letterbox", size=(320, 640), antialias=False)
    assert ready.scale == pytest.approx(1 / 255)
    classifier = makers_preprocess(ULTRALYTICS, "classification")
    assert classifier is not None
    ready = complete(classifier, replace(ANY, height=128, width=128))
    assert (ready.resize, ready.crop, ready.mean) == (Resize(size=128), (128, 128), (0.0, 0.0, 0.0))
    assert makers_preprocess(Facts(maker="yolov5", labels=("a",)), "classification") is None
    assert makers_preprocess(Facts(), "detection") is None
