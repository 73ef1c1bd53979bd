"""Models of every task, real ones and small ones in the manner of their families: imported, then asked."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import task_graphs
from command_line import Command, command_line
from custom_operators import library_path
from onnx import TensorProto, helper
from PIL import Image
from task_graphs import NAMES, OBJECT, SIZE, YOLO_METADATA, answering_graph, dense_rows

from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.store import ModelStore, manifest_path

pytestmark = pytest.mark.integration

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return command_line(capsys)


@pytest.fixture
def bring(command: Command) -> Callable[..., dict[str, Any]]:
    """Import a model as `m`, and return what the command printed."""

    def run(source: Path, *options: str | Path) -> dict[str, Any]:
        code, imported, err = command("model", "import", source, "--name", "m", *options, "--json")
        assert code == 0, err
        return imported

    return run


@pytest.fixture
def ask(command: Command) -> Callable[[Path], dict[str, Any]]:
    """Predict one picture with the model `m`."""

    def run(picture: Path) -> dict[str, Any]:
        code, answers, err = command("predict", "--model", "m", picture, "--provider", "cpu", "--json")
        assert code == 0, err
        return answers[0]

    return run


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    """A gray picture of the small models' own size."""
    path = tmp_path / "gray.png"
    Image.fromarray(np.full((SIZE, SIZE, 3), 128, np.uint8)).save(path)
    return path


# Real models


def boxes_of(answer: Mapping[str, Any]) -> list[tuple[int, list[float]]]:
    return [(d["label_id"], [d[edge] for edge in ("x1", "y1", "x2", "y2")]) for d in answer["detections"]]


@pytest.mark.parametrize(
    ("model", "preset", "head", "threshold"),
    [("yolox_nano", "yolox", "yolox", "0.25"), ("deimv2_atto", "coco-detr", "boxes", "0.4")],
)
def test_detector_sees_what_its_reference_does(bring, ask, test_data, model, preset, head, threshold) -> None:
    source = test_data(f"models/{model}.onnx")
    how = ("--task", "detection", "--preprocess", preset, "--score-threshold", threshold)
    imported = bring(source, *how)
    assert imported["head"] == head
    assert imported["variants"]["fp32"]["metrics"]["parity_max_abs"] < 1e-4
    reference = json.loads(test_data("reference/detections_coco12.json").read_text())[model]
    name = max(reference, key=lambda one: len(reference[one]))
    found = boxes_of(ask(test_data(f"images/coco12/{name}")))
    expected = [(d["label_id"], d["box"]) for d in sorted(reference[name], key=lambda d: -d["score"])]
    assert [label for label, _ in found] == [label for label, _ in expected]
    with Image.open(test_data(f"images/coco12/{name}")) as picture:
        edges = [*picture.size, *picture.size]  # the reference reaches beyond the picture
    np.testing.assert_allclose([box for _, box in found], np.clip([box for _, box in expected], 0, edges), atol=1)


def test_saliency_model_cuts_the_bird_out(bring, ask, test_data) -> None:
    imported = bring(test_data("models/u2netp.onnx"), "--task", "segmentation", "--preprocess", "u2net")
    assert imported["head"] == "saliency"
    assert "output '1959' is used" in " ".join(imported["notes"])
    with Image.open(test_data("images/coral/bird_segmentation_mask.bmp")) as mask:
        share = float((np.asarray(mask) == 3).mean())
    assert ask(test_data("images/coral/bird_segmentation.bmp"))["coverage"] == pytest.approx(share, abs=0.01)


def test_semantic_model_finds_the_bird(bring, ask, test_data) -> None:
    labels = test_data("images/coral/pascal_voc_segmentation_labels.txt")
    how = ("--task", "segmentation", "--preprocess", "raw255", "--labels", labels)
    imported = bring(test_data("models/deeplabv3_pascal_uint8_nhwc.onnx"), *how)
    assert imported["head"] == "semantic"
    assert "no classes" not in " ".join(imported["notes"])
    classes = ask(test_data("images/coral/bird_segmentation.bmp"))["classes"]
    assert [one["label"] for one in classes[:2]] == ["background", "bird"]


def test_pose_model_finds_the_keypoints(bring, ask, test_data) -> None:
    picture = test_data("images/coral/squat.bmp")
    imported = bring(test_data("models/movenet_lightning_nhwc.onnx"), "--task", "pose", "--preprocess", "movenet")
    assert imported["head"] == "movenet"
    reference = test_data("images/coral/movenet_single_pose_lightning_ptq_reference.csv").read_text().splitlines()
    expected = [(float(row["keypoint_x"]), float(row["keypoint_y"])) for row in csv.DictReader(reference)]
    with Image.open(picture) as opened:
        width, height = opened.size
    points = [(point["x"] / width, point["y"] / height) for point in ask(picture)["poses"][0]["keypoints"]]
    np.testing.assert_allclose(points, expected, atol=0.05)


@pytest.mark.parametrize("model", ["resnet8_cifar10_nhwc", "resnet8_cifar10_nhwc_int8"])
def test_classifier_of_pixels_takes_them_as_they_are(bring, ask, test_data, model, tmp_path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(CIFAR))
    how = ("--task", "classification", "--preprocess", "raw255", "--labels", labels)
    imported = bring(test_data(f"models/{model}.onnx"), *how)
    assert list(imported["variants"]) == ["int8" if model.endswith("int8") else "fp32"]
    assert ask(test_data("images/coral/cat.bmp"))["label"] == "cat"


# Small models in the manner of families


def as_box(centre: tuple[float, ...]) -> list[float]:
    x, y, width, height = centre
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def finished_rows(count: int = 300) -> np.ndarray:
    """Rows x1 y1 x2 y2 score label of an end-to-end detector, surest first: one dog, and then nothing much."""
    rows = np.zeros((count, 6), np.float32)
    rows[:, :4] = np.linspace([1, 2, 30, 40], [20, 10, 60, 50], count)
    rows[:, 4] = np.linspace(0.02, 0.001, count)
    rows[:, 5] = np.arange(count) % len(NAMES)
    rows[0] = [*as_box(OBJECT), 0.9, 1]
    return rows


def shares(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows[:, :4] / SIZE, rows[:, 4:]], axis=1)


V5 = dense_rows(objectness=True, boxes=3)
DYNAMIC = ("batch", 3, "height", "width")
ONE = (1, 3, SIZE, SIZE)
DETECTORS: Mapping[str, tuple[onnx.ModelProto, tuple[str, ...], str]] = {
    # family: graph, options, head
    "yolo of any batch and size": (
        answering_graph({"output0": dense_rows().T}, shape=DYNAMIC, metadata=YOLO_METADATA),
        (),
        "yolov8",
    ),
    "yolo that chooses inside": (
        answering_graph({"output0": finished_rows()}, shape=ONE, metadata={**YOLO_METADATA, "end2end": "True"}),
        (),
        "boxes",
    ),
    "yolov5 of TensorFlow": (
        answering_graph({"Identity": shares(V5)}, shape=(1, SIZE, SIZE, 3)),
        ("--task", "detection", "--preprocess", "yolo", "--labels", "names.txt"),
        "yolov5",
    ),
    "yolo in half precision": (
        answering_graph({"output0": dense_rows().T}, dtype=TensorProto.FLOAT16, metadata=YOLO_METADATA),
        (),
        "yolov8",
    ),
    "detr, raw": (
        answering_graph(
            {
                "logits": np.log(np.concatenate([finished_rows(40)[:, 4:5] * [0.1, 1, 0.1]], axis=1)).astype(
                    np.float32
                ),
                "pred_boxes": np.tile(np.float32([x / SIZE for x in OBJECT]), (40, 1)),
            }
        ),
        ("--task", "detection", "--preprocess", "coco-detr", "--labels", "names.txt"),
        "detr",
    ),
    "detector that is told the size of its pictures": (
        answering_graph(
            {
                "labels": finished_rows(30)[:, 5].astype(np.int64),
                "boxes": finished_rows(30)[:, :4],
                "scores": finished_rows(30)[:, 4],
            },
            sizes_input="orig_target_sizes",
        ),
        ("--task", "detection", "--preprocess", "coco-detr", "--labels", "names.txt"),
        "boxes",
    ),
}


@pytest.mark.parametrize("family", DETECTORS)
def test_detector_of_a_family_sees_its_object(bring, ask, gray, family, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("\n".join(NAMES))
    graph, options, head = DETECTORS[family]
    imported = bring(task_graphs.save_graph(graph, tmp_path / "m.onnx"), *options)
    assert (imported["head"], imported["classes"]) == (head, 3)
    assert imported["notes"][0].startswith(f"head {head}: ")
    answer = ask(gray)["detections"]
    assert [one["label"] for one in answer][:1] == ["dog"]
    box = [answer[0][edge] for edge in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(box, as_box(OBJECT), atol=0.1)


def test_yolo_of_any_size_is_used_at_the_one_it_was_exported_for(bring, ask, command, tmp_path) -> None:
    """A picture of other proportions, four times as large: what is found is where it is in that picture."""
    graph = answering_graph({"output0": dense_rows().T}, shape=DYNAMIC, metadata=YOLO_METADATA)
    imported = bring(task_graphs.save_graph(graph, tmp_path / "m.onnx"))
    notes = " ".join(imported["notes"])
    assert "head yolov8: output 'output0' [2, 7, 84], 3 classes, said by the metadata" in notes
    assert f"takes pictures of any size: {SIZE}x{SIZE} is used, which its metadata name" in notes
    assert "pictures are prepared as ultralytics does" in notes
    wide = tmp_path / "wide.png"
    Image.fromarray(np.full((2 * SIZE, 4 * SIZE, 3), 128, np.uint8)).save(wide)
    (answer,) = ask(wide)["detections"]
    x1, y1, x2, y2 = as_box(OBJECT)
    expected = [4 * x1, 4 * (y1 - SIZE / 4), 4 * x2, 4 * (y2 - SIZE / 4)]
    expected[1] = max(0, expected[1])
    np.testing.assert_allclose([answer[edge] for edge in ("x1", "y1", "x2", "y2")], expected, atol=0.2)
    code, shown, _ = command("model", "show", "m")
    assert code == 0
    assert "yolov8 (predictions from 'output0'), activation none" in shown
    assert "with a score of 0.25 or more, boxes that overlap by 0.45 suppressed" in shown


def test_yolo_pose_and_masks(bring, ask, gray, tmp_path) -> None:
    body = dense_rows(classes=1, rest=51)
    facts = {**YOLO_METADATA, "task": "pose", "names": "{0: 'person'}", "kpt_shape": "[17, 3]"}
    path = task_graphs.save_graph(answering_graph({"output0": body.T}, metadata=facts), tmp_path / "pose.onnx")
    assert bring(path)["head"] == "yolov8-pose"
    (pose,) = ask(gray)["poses"]
    assert len(pose["keypoints"]) == len(COCO_KEYPOINTS)
    expected = body[body[:, 4].argmax(), 5:].reshape(17, 3)[:, 0]
    np.testing.assert_allclose([point["x"] for point in pose["keypoints"]], expected, atol=0.1)

    masks = dense_rows(rest=4)
    masks[masks[:, 5].argmax(), -4:] = [0, 0, 1, 0]
    prototypes = np.full((4, 16, 16), -1, np.float32)
    prototypes[2, :, :4] = 1  # the left quarter of the picture
    facts = {**YOLO_METADATA, "task": "segment"}
    graph = answering_graph({"output0": masks.T, "output1": prototypes}, metadata=facts)
    assert bring(task_graphs.save_graph(graph, tmp_path / "masks.onnx"))["head"] == "yolov8-seg"
    (instance,) = ask(gray)["instances"]
    assert instance["label"] == "dog"


def classifier(shape: tuple[int | str, ...], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A classifier whose scores are the mean red, green and blue of what it is fed."""
    layout = [0, 3, 1, 2] if shape[-1] == 3 else [0, 1, 2, 3]
    nodes = [
        helper.make_node("Transpose", ["images"], ["x"], perm=layout),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["logits"]),
    ]
    values = [
        helper.make_tensor_value_info("images", kind, shape),
        helper.make_tensor_value_info("logits", kind, [shape[0], 3]),
    ]
    graph = helper.make_graph(nodes, "means", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (("N", 32, 32, 3), TensorProto.FLOAT),
        ((10, 3, 32, 32), TensorProto.FLOAT),
        (("N", 3, 32, 32), TensorProto.FLOAT16),
        ((10, 3, 32, 32), TensorProto.FLOAT16),
    ],
    ids=["NHWC", "batches of ten", "half precision", "batches of ten, half precision"],
)
def test_classifier_with_a_preprocessing_of_its_own(bring, ask, shape, kind, tmp_path) -> None:
    """Pixels as (x - 127) / 128, from a file: the logits, and so the scores, say whether it was done."""
    (tmp_path / "own.json").write_text(json.dumps({"mean": [127, 127, 127], "std": [128, 128, 128]}))
    path = task_graphs.save_graph(classifier(shape, kind), tmp_path / "m.onnx")
    how = ("--task", "classification", "--preprocess", tmp_path / "own.json", "--activation", "none")
    bring(path, *how)
    picture = tmp_path / "orange.png"
    Image.fromarray(np.full((40, 60, 3), (255, 127, 63), np.uint8)).save(picture)
    scores = {one["label_id"]: one["score"] for one in ask(picture)["top_k"]}
    assert scores == pytest.approx({0: 1.0, 1: 0.0, 2: -0.5}, abs=2e-3)


def test_embedding_and_several_answers(bring, ask, gray, tmp_path) -> None:
    vector = np.float32([3, 4])
    path = task_graphs.save_graph(answering_graph({"pooled": vector}), tmp_path / "m.onnx")
    assert bring(path, "--task", "embedding", "--preprocess", "unit")["head"] == "embedding"
    assert ask(gray)["embedding"] == pytest.approx([0.6, 0.8], abs=1e-3)

    logits = np.float32([5, 4, -5])
    path = task_graphs.save_graph(answering_graph({"logits": logits}), tmp_path / "m.onnx")
    bring(path, "--head", "classification", "--preprocess", "unit", "--multi-label", "--score-threshold", "0.5")
    assert [one["label"] for one in ask(gray)["top_k"]] == ["class_0", "class_1"]


def recurrent() -> onnx.ModelProto:
    """A matting model that carries four states from picture to picture."""
    states = [f"r{number}" for number in range(1, 5)]
    inputs = [helper.make_tensor_value_info("src", TensorProto.FLOAT, ["N", 3, "h", "w"])]
    inputs += [helper.make_tensor_value_info(f"{one}i", TensorProto.FLOAT, [1, "c", "y", "x"]) for one in states]
    inputs.append(helper.make_tensor_value_info("downsample_ratio", TensorProto.FLOAT, [1]))
    outputs = [helper.make_tensor_value_info("pha", TensorProto.FLOAT, ["N", 3, "h", "w"])]
    outputs += [helper.make_tensor_value_info(f"{one}o", TensorProto.FLOAT, [1, "c", "y", "x"]) for one in states]
    nodes = [helper.make_node("Mul", ["src", "downsample_ratio"], ["pha"])]
    nodes += [helper.make_node("Identity", [f"{one}i"], [f"{one}o"]) for one in states]
    graph = helper.make_graph(nodes, "recurrent", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def foreign() -> onnx.ModelProto:
    """A classifier that ends in an operator of somebody's own."""
    model = classifier(("N", 3, 32, 32))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "BigFlatten", "com.example.ops"
    model.opset_import.append(helper.make_opsetid("com.example.ops", 1))
    return model


REFUSED: Mapping[str, tuple[onnx.ModelProto, tuple[str, ...], tuple[str, ...]]] = {
    "recurrent": (recurrent(), ("--task", "segmentation"), ("takes 6 inputs", "r4i", "downsample_ratio")),
    "unknown operators": (
        foreign(),
        ("--task", "classification", "--preprocess", "unit"),
        ("'com.example.ops': BigFlatten", "--custom-ops PATH"),
    ),
    "no task": (classifier(("N", 3, 32, 32)), (), ("--task is needed",)),
    "another task": (
        answering_graph({"output0": dense_rows().T}, metadata=YOLO_METADATA),
        ("--task", "pose"),
        ("says itself that its task is detection",),
    ),
    "a task that we have not": (
        answering_graph({"output0": dense_rows().T}, metadata={**YOLO_METADATA, "task": "obb"}),
        (),
        ("the file says 'obb'",),
    ),
    "ambiguous": (
        answering_graph({"output": dense_rows()}),
        ("--task", "detection", "--preprocess", "yolo"),
        ("several heads alike: yolov8", "or yolov5", "--head yolov8|yolov5"),
    ),
    "no preprocessing": (
        answering_graph({"output": dense_rows(objectness=True, raw=True)}),
        ("--task", "detection"),
        ("--preprocess is needed", "head yolox", "likely: yolox"),
    ),
    "int8 of a detector": (
        answering_graph({"output0": dense_rows().T}, metadata=YOLO_METADATA),
        ("--precision", "fp32,int8"),
        ("precision int8-u", "must be judged on labelled images: give --evaluation URI"),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_model_that_is_not_certain_is_refused(command, why, tmp_path) -> None:
    graph, options, says = REFUSED[why]
    path = task_graphs.save_graph(graph, tmp_path / "m.onnx")
    code, out, err = command("model", "import", path, "--name", "m", *options)
    assert (code, out) == (2, "")
    errors = [line for line in err.splitlines() if line.startswith("vedette: error: ")]
    assert len(errors) == 1
    for part in says:
        assert part in errors[0]
    assert ModelStore.open().names() == []


def test_files_that_are_no_models_are_one_line(command, tmp_path) -> None:
    good = classifier(("N", 3, 32, 32))
    weights = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "weights")
    good.graph.initializer.append(weights)
    onnx.save(good, tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("hello")
    files = {
        "outside.onnx": "keeps its weights in weights.bin, and there is no such file beside it: copy it there",
        "empty.onnx": "is no ONNX model",
        "text.onnx": "no ONNX",
    }
    for name, says in files.items():
        code, out, err = command("model", "import", tmp_path / name, "--name", "m", "--task", "classification")
        assert (code, out, err.count("vedette: error: "), err.count("\n")) == (1, "", 1, 1), err
        assert says in err


def test_operators_of_a_library_run_only_with_it(bring, ask, command, tmp_path) -> None:
    library = library_path()
    model = classifier(("N", 3, 32, 32))
    model.graph.node[-1].output[0] = "means"
    model.graph.node.append(helper.make_node("NegPos", ["means"], ["below", "logits"], domain="ai.onnx.contrib"))
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    path = task_graphs.save_graph(model, tmp_path / "m.onnx")
    how = ("--task", "classification", "--preprocess", "unit", "--activation", "none")
    assert "'ai.onnx.contrib': NegPos" in command("model", "import", path, "--name", "m", *how)[2]
    bring(path, *how, "--custom-ops", library)
    picture = tmp_path / "orange.png"
    Image.fromarray(np.full((32, 32, 3), (255, 102, 0), np.uint8)).save(picture)
    scores = {one["label_id"]: one["score"] for one in ask(picture)["top_k"]}
    assert scores == pytest.approx({0: 1.0, 1: 0.4, 2: 0.0}, abs=1e-3)
    (pinned,) = command("model", "show", "m", "--json")[1]["custom_ops"]
    assert pinned == {"path": str(library), "sha256": hashlib.sha256(library.read_bytes()).hexdigest()}
    (tmp_path / "no.so").write_text("no library")
    code, _, err = command("model", "import", path, "--name", "m", *how, "--custom-ops", tmp_path / "no.so")
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be loaded" in err


def test_digest_is_that_of_the_stored_manifest(bring, command, tmp_path) -> None:
    """A manifest that another version wrote says the same in other bytes."""
    imported = bring(
        task_graphs.save_graph(classifier(("N", 3, 32, 32)), tmp_path / "m.onnx"),
        *("--task", "classification", "--preprocess", "unit"),
    )
    store = ModelStore.open()
    stored = store.manifest_bytes("m", 1)
    assert imported["digest"] == hashlib.sha256(stored).hexdigest()
    older = json.dumps({**json.loads(stored), "version": 2}, indent=3).encode()
    store.objects.put(manifest_path("m", 2), older)
    digest = hashlib.sha256(older).hexdigest()
    assert f"m@2 (classification, manifest {digest})" in command("model", "show", "m")[1]
    assert command("model", "list", "--json")[1][0]["digest"] == digest


def test_pictures_may_stay_as_large_as_they_are(bring, ask, tmp_path) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"resize": None, "scale": 1 / 255}))
    path = task_graphs.save_graph(classifier(("N", 3, "h", "w")), tmp_path / "m.onnx")
    bring(path, "--task", "classification", "--preprocess", tmp_path / "own.json", "--activation", "none")
    for size in ((40, 60), (7, 5)):
        picture = tmp_path / "red.png"
        Image.fromarray(np.full((*size, 3), (255, 0, 0), np.uint8)).save(picture)
        assert ask(picture)["score"] == pytest.approx(1.0, abs=1e-5)
