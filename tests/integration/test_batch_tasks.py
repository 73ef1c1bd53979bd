"""Batch jobs over real photographs say what the predictor says, whatever the task."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_of import artifact_of
from PIL import Image

from cluster import read_output, run_batch
from cluster.planning import BatchOptions
from runtime.artifact import Artifact
from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.images import read
from runtime.manifest import Postprocess, Preprocess, Resize
from runtime.predictor import Predictor
from runtime.tasks.records import record_of

pytestmark = pytest.mark.integration

Build = Callable[[Path], Artifact]


def exact(side: int, **rest: Any) -> Preprocess:
    return Preprocess(resize=Resize(mode="exact", size=(side, side)), **rest)


# By name: the model's file and the rest of what `artifact_of` takes. All graphs take one picture at a time.
MODELS: dict[str, tuple[str, str, Preprocess, Postprocess]] = {
    "detection": (
        "yolox_nano.onnx",
        "detection",
        Preprocess(color="BGR", resize=Resize(mode="letterbox", size=(416, 416), anchor="top-left", antialias=False)),
        Postprocess(kind="yolox", activation="none", strides=(8, 16, 32)),
    ),
    "segmentation": (
        "deeplabv3_pascal_uint8_nhwc.onnx",
        "segmentation",
        exact(513),
        Postprocess(kind="semantic", activation="none"),
    ),
    "pose": (
        "movenet_lightning_nhwc.onnx",
        "pose",
        exact(192),
        Postprocess(kind="movenet", activation="none", keypoints=COCO_KEYPOINTS),
    ),
}
PICTURES = 3


@pytest.fixture
def photographs(test_data, tmp_path: Path) -> list[Path]:
    """Write three photographs to Parquet, and a file that is none."""
    files = sorted(test_data("images/coco12").glob("*.jpg"))[:PICTURES]
    images = [*(file.read_bytes() for file in files), b"no picture"]
    pq.write_table(pa.table({"image": images, "number": range(len(images))}), tmp_path / "photographs.parquet")
    return files


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_job_says_what_the_predictor_says(name: str, photographs, test_data, tmp_path: Path) -> None:
    file, task, preprocess, postprocess = MODELS[name]
    artifact = artifact_of(
        {"fp32": test_data(f"models/{file}")}, tmp_path / "artifact", preprocess, postprocess, task=task
    )
    options = BatchOptions(
        models=(str(artifact.root),),
        input=str(tmp_path / "photographs.parquet"),
        output=str(tmp_path / "answers"),
        keep=("number",),
        provider="cpu",
        batch_size=2,
        local=True,
    )
    summary = run_batch(options)
    assert summary.rows == {"in": PICTURES + 1, "out": PICTURES, "quarantined": 1, "filtered": 0}
    assert summary.ran_on[0].endswith(", batch 1, looped")
    assert summary.decoders == {read(photographs[0]).decoder: PICTURES}
    assert "batch 1, looped" in summary.text()

    predictor = Predictor(artifact, provider="cpu")
    expected = [record_of(prediction) for prediction in predictor.predict(photographs)]
    rows = read_output(options.output).to_pylist()
    assert [row.pop("number") for row in rows] == list(range(PICTURES))
    for row, record in zip(rows, expected, strict=True):
        assert list(row) == ["source_file", "source_row", *record]
        assert in_single_precision({field: row[field] for field in record}) == in_single_precision(record)
    assert SENSIBLE[name](rows, photographs)
    report = json.loads((tmp_path / "answers" / "report.json").read_bytes())
    assert {one["unit"]: one["counts"] for one in report["classes"]} == counted_by_hand(rows)


def counted_by_hand(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how often each class is in *rows*, by what the report calls it that is counted."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for column, unit in (("detections", "boxes"), ("instances", "objects"), ("classes", "pixels")):
            for one in row.get(column, ()):
                counts.setdefault(unit, Counter())[one["label"]] += one.get("pixels", 1)
    return {unit: dict(found) for unit, found in counts.items()}


def test_models_of_all_tasks_in_one_pass_say_what_each_says_alone(photographs, test_data, tmp_path: Path) -> None:
    artifacts = {
        name: artifact_of(
            {"fp32": test_data(f"models/{file}")}, tmp_path / name, preprocess, postprocess, task=task, name=name
        )
        for name, (file, task, preprocess, postprocess) in MODELS.items()
    }
    options = BatchOptions(
        models=tuple(str(artifact.root) for artifact in artifacts.values()),
        input=str(tmp_path / "photographs.parquet"),
        output=str(tmp_path / "answers"),
        provider="cpu",
        local=True,
    )
    assert run_batch(options).decoders == {read(photographs[0]).decoder: PICTURES}
    rows = read_output(options.output).to_pylist()
    for name, artifact in artifacts.items():
        predictions = Predictor(artifact, provider="cpu").predict(photographs)
        for row, record in zip(rows, map(record_of, predictions), strict=True):
            assert in_single_precision({field: row[f"{name}_{field}"] for field in record}) == in_single_precision(
                record
            )


def in_single_precision(value: Any) -> Any:
    """Return *value* with its numbers as float32 has them: so they are stored."""
    match value:
        case float():
            return float(np.float32(value))
        case dict():
            return {key: in_single_precision(one) for key, one in value.items()}
        case list():
            return [in_single_precision(one) for one in value]
        case _:
            return value


def _boxes_lie_in_the_pictures(rows: list[dict[str, Any]], files: list[Path]) -> bool:
    return any(row["detections"] for row in rows) and all(
        0 <= box["x1"] < box["x2"] <= read(file).size[1] and 0 <= box["y1"] < box["y2"] <= read(file).size[0]
        for row, file in zip(rows, files, strict=True)
        for box in row["detections"]
    )


def _masks_are_as_large_as_the_pictures(rows: list[dict[str, Any]], files: list[Path]) -> bool:
    for row, file in zip(rows, files, strict=True):
        mask = np.asarray(Image.open(io.BytesIO(row["mask"])))
        counts = {int(index): int(count) for index, count in zip(*np.unique(mask, return_counts=True), strict=True)}
        if mask.shape != read(file).size or counts != {one["label_id"]: one["pixels"] for one in row["classes"]}:
            return False
    return True


def _there_is_one_pose_each(rows: list[dict[str, Any]], _: list[Path]) -> bool:
    return all(len(row["poses"]) == 1 and len(row["poses"][0]["keypoints"]) == len(COCO_KEYPOINTS) for row in rows)


SENSIBLE: dict[str, Callable[[list[dict[str, Any]], list[Path]], bool]] = {
    "detection": _boxes_lie_in_the_pictures,
    "segmentation": _masks_are_as_large_as_the_pictures,
    "pose": _there_is_one_pose_each,
}
