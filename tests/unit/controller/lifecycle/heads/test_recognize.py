"""What a model is recognized as: a table of what families answer with, and what is not certain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import task_graphs
from task_graphs import NAMES, SIZE, dense_rows

from controller.lifecycle.heads import RULES, Evidence, Facts, Seen, recognize
from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.errors import UsageError
from runtime.tasks import HEADS

ULTRALYTICS = Facts(maker="ultralytics", labels=NAMES)
GENERATOR = np.random.default_rng(11)
PROTOTYPES = GENERATOR.normal(size=(8, 16, 16)).astype(np.float32)


def evidence(outputs: Mapping[str, np.ndarray], batch: int = 2, **known: Any) -> Evidence:
    """A run of *batch* pictures, each answered with *outputs*; the file's own labels are known, too."""
    facts = known.pop("facts", Facts())
    classes = known.pop("classes", len(facts.labels) if facts.labels else None)
    seen = tuple(Seen(name=name, values=np.stack([values] * batch)) for name, values in outputs.items())
    return Evidence(batch=batch, height=SIZE, width=SIZE, outputs=seen, facts=facts, classes=classes, **known)


def queries(count: int = 40, columns: int = 3, background: bool = False) -> dict[str, np.ndarray]:
    """Boxes (Q, 4), centre and size as shares, and logits (Q, columns), the last of them for nothing if asked."""
    logits = GENERATOR.normal(-6, 1, (count, columns)).astype(np.float32)
    if background:
        logits[:, -1] = 4
    sizes = GENERATOR.uniform(0.05, 0.2, (count, 2))
    centres = GENERATOR.uniform(0.2, 0.8, (count, 2))
    return {"logits": logits, "pred_boxes": np.concatenate([centres, sizes], axis=1).astype(np.float32)}


def finished(count: int = 20, scale: float = SIZE, order: str = "xyxy") -> dict[str, np.ndarray]:
    """Boxes (M, 4), scores and labels of finished rows."""
    left = GENERATOR.uniform(0, 0.5, (count, 2))
    corners = np.concatenate([left, left + GENERATOR.uniform(0.1, 0.5, (count, 2))], axis=1) * scale
    if order == "cxcywh":
        corners[:, 2:] = GENERATOR.uniform(0.01, 0.1, (count, 2)) * scale
    return {
        "boxes": corners.astype(np.float32),
        "scores": np.sort(GENERATOR.uniform(0, 1, count))[::-1].astype(np.float32),
        "labels": GENERATOR.integers(0, 3, count),
    }


def six(count: int = 20) -> np.ndarray:
    rows = finished(count)
    return np.concatenate([rows["boxes"], rows["scores"][:, None], rows["labels"][:, None]], axis=1).astype(np.float32)


def shares(rows: np.ndarray) -> np.ndarray:
    """*rows* with their boxes as shares of the input."""
    return np.concatenate([rows[:, :4] / SIZE, rows[:, 4:]], axis=1).astype(np.float32)


def probabilities(*shape: int) -> np.ndarray:
    return GENERATOR.uniform(0.01, 0.9, shape).astype(np.float32)


def test_there_is_a_rule_for_every_head_and_no_other() -> None:
    assert RULES.keys() == HEADS.keys()


V8, V5, X = dense_rows(), dense_rows(objectness=True, boxes=3), dense_rows(objectness=True, raw=True)
RECOGNIZED: Mapping[str, tuple[str, Mapping[str, np.ndarray], dict[str, Any], dict[str, Any]]] = {
    # name: task, outputs of a picture, what else is known, what must be found
    "yolov8": ("detection", {"output0": V8.T}, {}, {"kind": "yolov8", "classes": 3, "boxes": "cxcywh"}),
    "yolov8 of its maker": ("detection", {"output0": V8.T}, {"facts": ULTRALYTICS}, {"kind": "yolov8", "classes": 3}),
    "yolov8, channels last": ("detection", {"o": V8}, {"classes": 3}, {"kind": "yolov8", "classes": 3}),
    "yolov8 of any grid": ("detection", {"o": V8[:70].T}, {}, {"kind": "yolov8", "classes": 3}),
    "rt-detr of ultralytics": (
        "detection",
        {"output0": np.concatenate([queries()["pred_boxes"], probabilities(40, 3)], axis=1)},
        {"facts": ULTRALYTICS},
        {"kind": "yolov8", "normalized": True, "boxes": "cxcywh"},
    ),
    "yolov5": ("detection", {"output": V5}, {}, {"kind": "yolov5", "classes": 3, "normalized": False}),
    "yolov5 of TensorFlow": ("detection", {"o": shares(V5)}, {}, {"kind": "yolov5", "normalized": True}),
    "yolov5 beside its raw maps": (
        "detection",
        {"output": V5, "350": GENERATOR.normal(size=(3, 8, 8, 8)).astype(np.float32)},
        {"facts": Facts(maker="yolov5", labels=NAMES)},
        {"kind": "yolov5"},
    ),
    "yolox": ("detection", {"output": X}, {}, {"kind": "yolox", "classes": 3, "strides": (8, 16, 32)}),
    "decoded yolox": (
        "detection",
        {"output": dense_rows(objectness=True)},
        {"classes": 3},
        {"kind": "yolov5", "classes": 3, "strides": ()},
    ),
    "detr": ("detection", queries(), {}, {"kind": "detr", "classes": 3, "activation": "sigmoid", "normalized": True}),
    "detr with a background": (
        "detection",
        queries(columns=4, background=True),
        {},
        {"kind": "detr", "classes": 3, "activation": "softmax", "none_label": 3},
    ),
    "detr with a background, of known classes": (
        "detection",
        queries(columns=4, background=True),
        {"classes": 3},
        {"kind": "detr", "activation": "softmax", "none_label": 3},
    ),
    "rf-detr": (
        "detection",
        {"dets": queries()["pred_boxes"], "labels": queries()["logits"]},
        {},
        {"kind": "detr", "outputs": {"logits": "labels", "boxes": "dets"}},
    ),
    "ssd": (
        "detection",
        {"scores": probabilities(1200, 3), "boxes": np.tile(finished(scale=1)["boxes"], (60, 1))},
        {},
        {"kind": "ssd", "boxes": "xyxy", "normalized": True, "activation": "none", "none_label": None},
    ),
    "ssd with a background": (
        "detection",
        {
            "scores": np.stack([np.full(1200, 0.9), np.full(1200, 0.1)], axis=1).astype(np.float32),
            "boxes": np.tile(finished(scale=1)["boxes"], (60, 1)),
        },
        {"classes": 1},
        {"kind": "ssd", "none_label": 0, "classes": 1},
    ),
    "finished columns": (
        "detection",
        finished(),
        {},
        {"kind": "boxes", "boxes": "xyxy", "normalized": False, "classes": None},
    ),
    "finished columns of float labels": (
        "detection",
        {
            "det_classes": finished()["labels"].astype(np.float32),
            "det_boxes": finished()["boxes"],
            "det_scores": finished()["scores"],
            "num_dets": np.array([20], np.int32),
        },
        {"classes": 3},
        {
            "kind": "boxes",
            "outputs": {"boxes": "det_boxes", "scores": "det_scores", "labels": "det_classes", "count": "num_dets"},
        },
    ),
    "finished columns of TensorFlow": (
        "detection",
        {
            "detection_boxes": finished(scale=1)["boxes"],
            "detection_scores": finished()["scores"],
            "detection_classes": finished()["labels"].astype(np.float32),
        },
        {},
        {"kind": "boxes", "boxes": "yxyx", "normalized": True},
    ),
    "finished rows of centres": ("detection", finished(order="cxcywh"), {}, {"kind": "boxes", "boxes": "cxcywh"}),
    "finished rows of six": ("detection", {"output0": six()}, {}, {"kind": "boxes", "outputs": {"rows": "output0"}}),
    "finished rows of six, none found": (
        "detection",
        {"output0": np.zeros((0, 6), np.float32)},
        {"facts": Facts(maker="ultralytics", labels=NAMES, end2end=True)},
        {"kind": "boxes", "boxes": "xyxy", "normalized": False},
    ),
    "yolov8-seg": (
        "segmentation",
        {"output0": dense_rows(rest=8).T, "output1": PROTOTYPES},
        {},
        {"kind": "yolov8-seg", "classes": 3, "outputs": {"predictions": "output0", "prototypes": "output1"}},
    ),
    "finished rows with masks": (
        "segmentation",
        {"output0": np.concatenate([six(), probabilities(20, 8)], axis=1), "output1": PROTOTYPES},
        {},
        {"kind": "boxes-seg", "outputs": {"rows": "output0", "prototypes": "output1"}},
    ),
    "yolov5-seg": (
        "segmentation",
        {"output0": dense_rows(objectness=True, boxes=3, rest=8), "output1": PROTOTYPES},
        {},
        {"kind": "yolov5-seg", "classes": 3},
    ),
    "semantic": (
        "segmentation",
        {"logits": GENERATOR.normal(size=(5, 16, 16)).astype(np.float32)},
        {},
        {"kind": "semantic", "classes": 5},
    ),
    "semantic, channels last": (
        "segmentation",
        {"scores": GENERATOR.normal(size=(64, 64, 21)).astype(np.float32)},
        {},
        {"kind": "semantic", "classes": 21},
    ),
    "semantic ids": ("segmentation", {"ArgMax": GENERATOR.integers(0, 9, (64, 64))}, {}, {"kind": "semantic"}),
    "saliency": (
        "segmentation",
        {"d0": probabilities(1, 64, 64), "d1": probabilities(1, 64, 64)},
        {},
        {"kind": "saliency", "activation": "none", "outputs": {"matte": "d0"}},
    ),
    "saliency of logits": (
        "segmentation",
        {"x": GENERATOR.normal(size=(64, 64, 1)).astype(np.float32)},
        {},
        {"kind": "saliency", "activation": "sigmoid"},
    ),
    "matting beside the foreground": (
        "segmentation",
        {"fgr": probabilities(3, 64, 64), "pha": probabilities(1, 64, 64)},
        {},
        {"kind": "saliency", "outputs": {"matte": "pha"}},
    ),
    "yolov8-pose": (
        "pose",
        {"output0": dense_rows(classes=1, rest=51).T},
        {},
        {"kind": "yolov8-pose", "classes": 1, "keypoints": COCO_KEYPOINTS},
    ),
    "yolov8-pose of two numbers": (
        "pose",
        {"output0": dense_rows(classes=2, rest=8).T},
        {"facts": Facts(maker="ultralytics", labels=("hand", "foot"), keypoint_shape=(4, 2))},
        {"kind": "yolov8-pose", "classes": 2, "keypoints": tuple(f"keypoint_{index}" for index in range(4))},
    ),
    "finished rows with keypoints": (
        "pose",
        {"output0": np.concatenate([six(), probabilities(20, 51)], axis=1)},
        {},
        {"kind": "boxes-pose", "keypoints": COCO_KEYPOINTS},
    ),
    "movenet": ("pose", {"o": probabilities(1, 17, 3)}, {}, {"kind": "movenet", "keypoints": COCO_KEYPOINTS}),
    "classification": (
        "classification",
        {"logits": GENERATOR.normal(size=10).astype(np.float32)},
        {},
        {"kind": "classification", "classes": 10, "activation": "softmax"},
    ),
    "classification of eight bits": (
        "classification",
        {"y": GENERATOR.integers(-128, 127, 10).astype(np.int8)},
        {},
        {"kind": "classification", "classes": 10},
    ),
    "scikit-learn": (
        "classification",
        {"output_label": np.array(1), "output_probability": np.array([0.2, 0.5, 0.3], np.float32)},
        {},
        {"kind": "classification", "activation": "none", "outputs": {"scores": "output_probability"}},
    ),
    "embedding": (
        "embedding",
        {"last_hidden_state": probabilities(7, 32), "pooler_output": probabilities(32)},
        {},
        {"kind": "embedding", "outputs": {"embedding": "pooler_output"}},
    ),
}


@pytest.mark.parametrize("family", RECOGNIZED)
def test_family_is_recognized(family: str) -> None:
    task, outputs, known, expected = RECOGNIZED[family]
    found = recognize(evidence(outputs, **known), task)
    for field, value in expected.items():
        assert getattr(found if field == "classes" else found.postprocess, field) == value, found
    assert found.said.startswith(f"head {expected['kind']}: output ")


def test_yolov7_with_the_suppression_inside() -> None:
    rows = finished()
    picture = np.repeat([0, 1], 10)
    table = np.concatenate([picture[:, None], rows["boxes"], rows["labels"][:, None], rows["scores"][:, None]], axis=1)
    seen = Seen(name="output", values=table.astype(np.float32))
    found = recognize(Evidence(batch=2, height=SIZE, width=SIZE, outputs=(seen,)), "detection")
    assert (found.postprocess.kind, found.postprocess.outputs) == ("boxes", {"rows": "output"})


def test_detector_of_one_picture_has_no_batch_dimension() -> None:
    outputs = tuple(Seen(name=name, values=values) for name, values in finished().items())
    found = recognize(Evidence(batch=1, height=SIZE, width=SIZE, outputs=outputs), "detection")
    assert found.postprocess.kind == "boxes"


def test_metadata_say_what_shapes_leave_open() -> None:
    decoded = {"output": dense_rows()}
    with pytest.raises(
        UsageError, match=r"fit several heads alike: yolov8 .*3 classes\); or yolov5 .*2 classes.*--head"
    ):
        recognize(evidence(decoded), "detection")
    found = recognize(evidence(decoded, facts=ULTRALYTICS), "detection")
    assert found.postprocess.kind == "yolov8"
    assert found.said == "head yolov8: output 'output' [2, 84, 7], 3 classes, said by the metadata"
    assert recognize(evidence(decoded, classes=2), "detection").postprocess.kind == "yolov5"
    named = recognize(evidence(decoded), "detection", head="yolov5")
    assert named.said == "head yolov5: output 'output' [2, 84, 7], as --head says"


def test_head_that_does_not_fit_is_refused_with_what_it_expects() -> None:
    with pytest.raises(
        UsageError, match=r"--head yolov5 does not fit: it expects .*5 \+ classes.*output0 float32 \[2, 7"
    ):
        recognize(evidence({"output0": V8.T}), "detection", head="yolov5")
    with pytest.raises(UsageError, match=r"no pose head fits: .* are output0 .*; expected yolov8-pose: .*movenet"):
        recognize(evidence({"output0": probabilities(6, 56)}), "pose")


def test_names_that_the_outputs_have_no_room_for() -> None:
    with pytest.raises(
        UsageError, match=r"--labels names 4 classes; the outputs fit yolov8 \(output 'o' .*, 3 classes\)"
    ):
        recognize(evidence({"o": V8.T}, classes=4), "detection", names_given=True)
    own = Facts(maker="ultralytics", labels=("a", "b"))
    found = recognize(evidence({"o": V8.T}, facts=own), "detection")
    assert found.classes == 3
    assert "the file names 2 classes, which its outputs do not have: they are left out" in found.notes


def test_boxes_that_fill_the_picture_keep_their_familys_order() -> None:
    whole = {"logits": queries()["logits"], "pred_boxes": np.tile(np.float32([0.5, 0.5, 1, 1]), (40, 1))}
    assert recognize(evidence(whole), "detection").postprocess.boxes == "cxcywh"


def test_graph_in_the_support_module_answers_as_it_is_told(tmp_path) -> None:
    from runtime.session import Session

    path = task_graphs.save_graph(task_graphs.answering_graph({"o": V8.T}), tmp_path / "m.onnx")
    answer = Session(path).run(np.zeros((3, 3, SIZE, SIZE), np.float32))[0]
    np.testing.assert_array_equal(answer, np.stack([V8.T] * 3))
