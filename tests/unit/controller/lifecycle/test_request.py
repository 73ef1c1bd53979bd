"""What can be refused before a model is loaded, and who says the task."""

from __future__ import annotations

from typing import Any

import pytest

from controller.lifecycle.request import ImportRequest
from runtime.errors import UsageError
from runtime.manifest import Postprocess


def request(**fields: Any) -> ImportRequest:
    return ImportRequest(**({"source": "m.onnx", "name": "m"} | fields))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "generation"}, "task 'generation' cannot be imported; expected classification, detection"),
        ({"head": "yolov99"}, "--head 'yolov99' is not known; expected classification, yolov8"),
        ({"head": "yolov99", "task": "pose"}, "expected yolov8-pose, boxes-pose, movenet"),
        ({"head": "yolov8", "task": "pose"}, "--head yolov8 is for detection, --task says pose"),
        ({"activation": "relu"}, "activation 'relu' is not known; expected softmax, sigmoid, none"),
        ({"score_threshold": 25}, "--score-threshold is 25; expected 0 to 1"),
        ({"iou_threshold": -0.1}, "--iou-threshold is -0.1; expected 0 to 1"),
        ({"max_drop": float("nan")}, "--max-drop is nan"),
        ({"name": "Not A Name"}, "is no model name"),
    ],
)
def test_call_that_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        request(**fields)


def test_task_is_the_one_asked_for_or_the_sources_own() -> None:
    assert request(task="pose").decided_task(None, None) == "pose"
    assert request().decided_task("detection", None) == "detection"
    assert request(head="semantic").decided_task("detection", None) == "segmentation"
    with pytest.raises(UsageError, match=r"--task is needed for m\.onnx: one of .*the file says 'obb', which Vedette"):
        request().decided_task(None, "obb")
    with pytest.raises(UsageError, match="says itself that its task is segmentation, --task says detection"):
        request(task="detection").decided_task("segmentation", None)


def test_settings_go_into_the_postprocessing() -> None:
    plain = Postprocess(kind="classification")
    assert request().changed(plain) == plain
    changed = request(score_threshold=0.5, iou_threshold=0.6, multi_label=True).changed(plain)
    assert (changed.score_threshold, changed.iou_threshold, changed.multi_label) == (0.5, 0.6, True)
    assert changed.activation == "sigmoid", "a softmax has one answer"
    assert request(multi_label=True, activation="none").changed(plain).activation == "none"
