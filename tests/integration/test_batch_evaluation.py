"""Batch jobs judge their answers as `vedette model evaluate` judges the model, whatever the task."""

from __future__ import annotations

import html
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_of import artifact_of
from color_model import LABELS, picture, write_artifact
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from real_models import coral_masks, detector, pose_estimator, segmenter
from s3_server import BUCKET, Proxy
from task_models import SIDE, write_task_artifact

from cluster import run_batch
from cluster.errors import SchemaError
from cluster.evaluation import Evaluation
from cluster.planning import BatchOptions, plan_job
from cluster.storage import open_store
from controller.lifecycle.evaluation.evaluate import evaluate
from runtime.artifact import Artifact
from runtime.datasets import open_dataset
from runtime.datasets.parquet import write_parquet
from runtime.evaluation.metrics.detection import DetectionJudge
from runtime.evaluation.outlines import mask_rle
from runtime.evaluation.titles import title_of
from runtime.evaluation.truth import Truths
from runtime.manifest import Postprocess, Preprocess, Resize
from runtime.predictor import Predictor

pytestmark = pytest.mark.integration


def judged(artifact: Artifact, data: Path, column: str, out: Path, **more: Any) -> Evaluation:
    """Run *artifact* over *data* as a batch job in two files, and return its evaluation."""
    options = BatchOptions(
        models=(str(artifact.root),),
        input=str(data),
        output=str(out),
        evaluate=column,
        provider="cpu",
        local=True,
        shard_rows=7,
        file_bytes=0,
        **more,
    )
    summary = run_batch(options)
    (found,) = summary.evaluations
    (kept,) = json.loads((out / "report.json").read_bytes())["evaluations"]
    assert kept["metrics"] == found.metrics
    page = html.unescape((out / "report.html").read_text())
    assert all(note in summary.text() and note[1:] in page for note in found.notes)
    assert all(title_of(name).show(value) in page for name, value in found.metrics.items())
    assert all(one["label"] in page for one in found.classes)
    return found


def classes_of(found: Evaluation) -> dict[str, list[float]]:
    return {one["label"]: [v for n, v in one.items() if n != "label" and v is not None] for one in found.classes}


def test_boxes_at_the_threshold_of_evaluate_have_its_average_precision(test_data, tmp_path: Path) -> None:
    artifact = detector(test_data, tmp_path / "artifact", score_threshold=0.001)
    data = test_data("images/coco12_hf.parquet")
    found = judged(artifact, data, "objects", tmp_path / "out")
    expected = evaluate(artifact, "fp32", open_dataset(str(data)))
    assert (found.judged, found.unlabelled) == (12, 0)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)  # boxes are float32 in the output
    assert found.notes == expected.notes == ("categories have no names: their ids are taken to be COCO's own, 1 to 90",)
    assert expected.classes is not None
    person = dict(expected.classes.rows)["person"]
    assert classes_of(found)["person"] == pytest.approx(list(person), abs=1e-5)


def test_boxes_at_the_model_s_own_threshold_are_judged_as_they_are_and_a_note_says_so(test_data, tmp_path) -> None:
    artifact = detector(test_data, tmp_path / "artifact")
    write_parquet(open_dataset(str(test_data("images/coco12"))), tmp_path / "coco12.parquet", row_group_rows=5)
    dataset = open_dataset(str(tmp_path / "coco12.parquet"))
    found = judged(artifact, tmp_path / "coco12.parquet", "objects", tmp_path / "out")
    predictor, truths = Predictor(artifact, provider="cpu"), Truths.of(dataset, artifact.manifest)
    judge = DetectionJudge(artifact.manifest)
    for row in dataset.rows():
        picture = predictor.load(row.image).pixels  # type: ignore[arg-type]
        size = picture.shape[:2]
        judge.add(predictor.predict([picture])[0], truths.read("objects", row, size), size)
    assert found.metrics == pytest.approx(judge.figures().metrics, abs=1e-5)
    whole = evaluate(artifact, "fp32", dataset).metrics
    assert found.metrics["map50_95"] < whole["map50_95"]
    (note,) = found.notes
    assert "scores from 0.25 on" in note
    assert "from 0.001 on" in note


def test_masks_have_the_intersections_of_evaluate(test_data, tmp_path: Path) -> None:
    artifact = segmenter(test_data, tmp_path / "artifact")
    coral_masks(test_data, tmp_path / "set")
    write_parquet(open_dataset(str(tmp_path / "set")), tmp_path / "set.parquet")
    found = judged(artifact, tmp_path / "set.parquet", "mask", tmp_path / "out")
    expected = evaluate(artifact, "fp32", open_dataset(str(tmp_path / "set.parquet")))
    assert found.column == "input_mask"
    assert found.metrics == expected.metrics
    assert found.notes == ()
    assert set(classes_of(found)) >= {"background", "bird", "dog"}


def test_bodies_have_the_similarities_of_evaluate(test_data, tmp_path: Path) -> None:
    coral = test_data("images/coral")
    artifact = pose_estimator(test_data, tmp_path / "artifact")
    picture = (coral / "squat.bmp").read_bytes()
    (pose,) = Predictor(artifact, provider="cpu").predict([coral / "squat.bmp"])[0].poses  # type: ignore[union-attr]
    points = np.array([(point.x, point.y, 2.0) for point in pose.keypoints])
    points[:, 0] += np.linspace(0, 12, len(points))  # so that it is not all right
    corner, extent = points[:, :2].min(axis=0), np.ptp(points[:, :2], axis=0)
    objects = [{"bbox": [*corner, *extent], "category": 0, "keypoints": points.ravel().tolist()}]
    kind = pa.list_(
        pa.struct([("bbox", pa.list_(pa.float64())), ("category", pa.int64()), ("keypoints", pa.list_(pa.float64()))])
    )
    table = pa.table({"image": [picture], "bodies": pa.array([objects], kind)})
    pq.write_table(table, tmp_path / "bodies.parquet")
    found = judged(artifact, tmp_path / "bodies.parquet", "bodies", tmp_path / "out")
    expected = evaluate(artifact, "fp32", open_dataset(str(tmp_path / "bodies.parquet"), label_column="bodies"))
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-6)
    assert 0 < found.metrics["oks_ap"] < 1


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def outliner(root: Path) -> Artifact:
    """A model of three objects, always in the same boxes: their masks are where a picture is red, or green."""
    rows = [[1, 1, 6, 6, 0.9, 0, 1, 0], [2, 3, 8, 8, 0.6, 1, 0, 1], [0, 0, 3, 3, 0.3, 0, 1, 0]]
    constants = {"rows": np.array([rows], np.float32), "half": np.float32(127), "zero": np.float32(0)}
    constants |= {"two": np.array([0, 1], np.int64), "axes": np.array([1, 2], np.int64)}
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["channels", "two"], ["first"], axis=1),
        helper.make_node("Sub", ["first", "half"], ["prototypes"]),
        helper.make_node("ReduceMean", ["channels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "axes"], ["wide"]),
        helper.make_node("Add", ["rows", "wide"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "outliner",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 3, 8]),
            helper.make_tensor_value_info("prototypes", TensorProto.FLOAT, ["N", 2, SIDE, SIDE]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    root.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), root / "model.fp32.onnx"
    )
    return artifact_of(
        {"fp32": root / "model.fp32.onnx"},
        root,
        Preprocess(resize=Resize(mode="exact", size=(SIDE, SIDE)), embedded=True),
        Postprocess(kind="boxes-seg", activation="none", score_threshold=0.001),
        task="segmentation",
        labels=("red", "green"),
    )


@pytest.mark.parametrize("form", ["polygons", "run lengths"])
def test_outlined_objects_have_the_average_precision_of_evaluate(form: str, tmp_path: Path) -> None:
    random, side = np.random.default_rng(5), 2 * SIDE
    pictures, objects = [], []
    for _ in range(20):
        known: list[dict[str, Any]] = []
        picture = random.integers(0, 160, (side, side, 3), np.uint8)
        for category in range(int(random.integers(0, 3))):
            x, y = (np.array([[2, 2], [4, 6]])[category] + random.integers(-1, 2, 2)).tolist()
            width, height = random.integers(8, 10, 2).tolist()
            picture[y : y + height, x : x + width, category] = 255
            inside = np.zeros((side, side), np.bool_)
            inside[y : y + height, x : x + width] = True
            polygon = [[float(x), float(y), x + width, y, x + width, y + height, x, y + height]]
            runs = mask_rle(inside)
            outline = (
                {"segmentation": polygon} if form == "polygons" else {"rle": runs | {"counts": runs["counts"].decode()}}
            )
            known.append({"bbox": [x, y, width, height], "category": category, **outline})
        pictures.append(encoded(picture))
        objects.append(known)
    fields = [
        ("bbox", pa.list_(pa.float64())),
        ("category", pa.int64()),
        ("segmentation", pa.list_(pa.list_(pa.float64()))),
    ]
    fields.append(("rle", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])))
    table = pa.table({"image": pictures, "objects": pa.array(objects, pa.list_(pa.struct(fields)))})
    pq.write_table(table, tmp_path / "objects.parquet")
    artifact = outliner(tmp_path / "artifact")
    found = judged(artifact, tmp_path / "objects.parquet", "objects", tmp_path / "out")
    expected = evaluate(artifact, "fp32", open_dataset(str(tmp_path / "objects.parquet")))
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-9)
    assert 0.1 < found.metrics["map50"] < 1
    assert 0.1 < found.metrics["box_map50"] < 1


def test_mattes_and_vectors_have_the_figures_of_evaluate(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [encoded(random.integers(0, 256, (2 * SIDE, 2 * SIDE, 3), np.uint8)) for _ in range(20)]
    mattes = [encoded(random.choice(np.array([0, 255], np.uint8), (2 * SIDE, 2 * SIDE))) for _ in range(20)]
    labels = random.integers(0, 4, 20)
    pq.write_table(pa.table({"image": pictures, "mask": mattes}), tmp_path / "mattes.parquet")
    pq.write_table(pa.table({"image": pictures, "label": labels}), tmp_path / "vectors.parquet")
    for kind, file, column, name in (
        ("saliency", "mattes", "mask", "mae"),
        ("embedding", "vectors", "label", "recall1"),
    ):
        artifact = write_task_artifact(kind, tmp_path / kind)
        data = tmp_path / f"{file}.parquet"
        found = judged(artifact, data, column, tmp_path / f"out-{kind}", image_column="image")
        expected = evaluate(artifact, "fp32", open_dataset(str(data), image_column="image"))
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-9)
        assert 0 < found.metrics[name] < 1
        assert found.judged == 20


def test_labels_in_a_bucket_are_looked_at_and_judged_there(proxy: Proxy, tmp_path: Path) -> None:
    place = f"s3://{BUCKET}/{tmp_path.name}"
    names = ["green" if number % 4 == 1 else LABELS[number % 3] for number in range(60)]
    rows = {"image": pa.array([picture(number % 3) for number in range(60)], pa.binary()), "name": names}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet", row_group_size=20)
    open_store(place).put("in/0.parquet", (tmp_path / "in.parquet").read_bytes())
    options = BatchOptions(
        models=(str(write_artifact(tmp_path / "color").root),),
        input=f"{place}/in",
        output=f"{place}/out",
        evaluate="name",
        provider="cpu",
        local=True,
        shard_rows=20,
    )
    right = sum(name == LABELS[number % 3] for number, name in enumerate(names))
    (evaluation,) = run_batch(options).evaluations
    assert evaluation.metrics["top1"] == pytest.approx(right / 60)
    wrong = pa.table({**rows, "name": [*names[:-1], "mauve"]})
    pq.write_table(wrong, tmp_path / "in.parquet", row_group_size=20)
    open_store(place).put("wrong/0.parquet", (tmp_path / "in.parquet").read_bytes())
    with pytest.raises(SchemaError, match="'mauve' is no class of the model"):
        plan_job(replace(options, input=f"{place}/wrong", output=f"{place}/other"))
