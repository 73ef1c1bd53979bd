"""How good real models are, held against COCO's own code; and the two verbs that say it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from real_models import DETECTORS, coral_masks, detector, pose_estimator, segmenter
from task_models import SIDE, write_task_artifact

from controller.cli.models import model as group
from controller.lifecycle.evaluation.evaluate import evaluate
from controller.registry.publish import publish
from runtime.artifact import Artifact
from runtime.datasets import open_dataset
from runtime.datasets.parquet import write_parquet
from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.evaluation.metrics.detection import DetectionJudge
from runtime.images import read
from runtime.predictor import Predictor
from runtime.store import ModelStore
from runtime.tasks.records import class_mask_png

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def coco_detector(request: pytest.FixtureRequest, test_data, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return detector(test_data, tmp_path_factory.mktemp(request.param) / "artifact", request.param)


def by_coco_itself(annotations: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> np.ndarray:
    """Return pycocotools' twelve figures of *found*, boxes by name of the picture, in its usual way of use."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        images = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
        ids = sorted(truth.getCatIds())
        results = [
            {
                "image_id": images[name],
                "category_id": ids[one["label_id"]],
                "score": one["score"],
                "bbox": [*one["box"][:2], one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]],
            }
            for name, answers in found.items()
            for one in answers
        ]
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    stats: np.ndarray = judge.stats
    return stats


def test_sure_answers_have_the_precision_that_coco_s_code_gives_the_reference(
    coco_detector: Artifact, test_data
) -> None:
    reference = json.loads(test_data("reference/detections_coco12.json").read_text())[coco_detector.manifest.name]
    expected = by_coco_itself(test_data("images/coco12/instances.json"), reference)
    predictor = Predictor(coco_detector, provider="cpu")
    judge = DetectionJudge(coco_detector.manifest)
    for row in open_dataset(str(test_data("images/coco12"))).rows():
        picture = predictor.load(row.image).pixels  # type: ignore[arg-type]
        judge.add(predictor.predict([picture])[0], row.objects, picture.shape[:2])  # type: ignore[arg-type]
    metrics = judge.figures().metrics
    found = [metrics[name] for name in ("map50_95", "map50", "map75", "ar100")]
    np.testing.assert_allclose(found, expected[[0, 1, 2, 8]], atol=0.005)


def test_the_whole_curve_is_taken_from_folders_and_from_parquet_alike(coco_detector: Artifact, test_data) -> None:
    folder, parquet = (
        evaluate(coco_detector, "fp32", open_dataset(str(test_data(path))))
        for path in ("images/coco12", "images/coco12_hf.parquet")
    )
    assert folder.metrics == pytest.approx(parquet.metrics, abs=1e-6)  # boxes are float32 there
    assert parquet.notes == ("categories have no names: their ids are taken to be COCO's own, 1 to 90",)
    assert 0.2 < folder.metrics["map50_95"] < folder.metrics["map50"] < 0.5  # YOLOX-nano, on 5,000: 0.258
    assert folder.agreement(folder) == 1
    assert folder.confusion is not None
    assert folder.confusion.counts[0, 0] >= 15  # of 30 people


def test_converted_data_gives_the_same_figures_to_the_last_digit(
    coco_detector: Artifact, test_data, tmp_path: Path
) -> None:
    dataset = open_dataset(str(test_data("images/coco12")))
    write_parquet(dataset, tmp_path / "coco12.parquet")
    folder, parquet = (
        evaluate(coco_detector, "fp32", one) for one in (dataset, open_dataset(str(tmp_path / "coco12.parquet")))
    )
    assert parquet.metrics == folder.metrics
    assert parquet.notes == folder.notes == ()  # classes are still known by name


def test_a_real_segmenter_has_the_intersections_that_are_counted_by_hand(test_data, tmp_path: Path) -> None:
    coral = test_data("images/coral")
    artifact = segmenter(test_data, tmp_path / "artifact")
    masks = coral_masks(test_data, tmp_path / "set")
    found = evaluate(artifact, "fp32", open_dataset(str(tmp_path / "set")))
    predictor = Predictor(artifact, provider="cpu")
    said = {name: predictor.predict([coral / f"{name}_segmentation.bmp"])[0].mask for name in masks}  # type: ignore[union-attr]
    ious = []
    for label in range(21):
        both = sum(np.count_nonzero((said[name] == label) & (mask == label)) for name, mask in masks.items())
        either = sum(
            np.count_nonzero(((said[name] == label) | (mask == label)) & (mask != 255)) for name, mask in masks.items()
        )
        if any((mask == label).any() for mask in masks.values()):
            ious.append(both / either)
    assert found.metrics["miou"] == pytest.approx(np.mean(ious))
    assert found.metrics["pixel_accuracy"] > 0.95


def test_a_real_pose_is_judged_by_coral_s_keypoints(test_data, tmp_path: Path) -> None:
    coral = test_data("images/coral")
    artifact = pose_estimator(test_data, tmp_path / "artifact")
    shutil.copy(coral / "squat.bmp", tmp_path)
    height, width = read(coral / "squat.bmp").pixels.shape[:2]
    rows = csv.DictReader((coral / "movenet_single_pose_lightning_ptq_reference.csv").read_text().splitlines())
    points = np.array([(float(row["keypoint_x"]) * width, float(row["keypoint_y"]) * height) for row in rows])
    corner, extent = points.min(axis=0), np.ptp(points, axis=0)
    body = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [*corner.tolist(), *extent.tolist()],
        "area": float(extent.prod()),
        "iscrowd": 0,
        "keypoints": np.concatenate([points, np.full((17, 1), 2)], axis=1).ravel().tolist(),
    }
    document = {
        "images": [{"id": 1, "file_name": "squat.bmp", "width": width, "height": height}],
        "annotations": [body],
        "categories": [{"id": 1, "name": "person", "keypoints": COCO_KEYPOINTS}],
    }
    (tmp_path / "person_keypoints.json").write_text(json.dumps(document))
    found = evaluate(artifact, "fp32", open_dataset(str(tmp_path / "person_keypoints.json")))
    assert found.metrics["oks_ap75"] == pytest.approx(1)
    assert found.examples[0].truth == "1 of 1 bodies found"


def pairs(root: Path) -> Path:
    """Three pictures of one colour each, and masks of which two are right."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name, color, label in (("a", (0, 200, 0), 1), ("b", (0, 0, 200), 2), ("c", (0, 0, 200), 1)):
        Image.new("RGB", (SIDE, SIDE), color).save(root / "images" / f"{name}.png")
        (root / "masks" / f"{name}.png").write_bytes(class_mask_png(np.full((SIDE, SIDE), label, np.uint8)))
    return root


def run(*words: str) -> str:
    done = CliRunner().invoke(group, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_verbs_measure_a_published_model_and_write_its_card(tmp_path: Path) -> None:
    artifact = write_task_artifact("semantic", tmp_path / "artifact")
    publish(ModelStore.open(), artifact.root, artifact.manifest)
    data = str(pairs(tmp_path / "set"))
    found = json.loads(run("evaluate", "tiny", "--data", data, "--json"))
    variant = found["variants"]["fp32"]
    assert variant["primary"] == "miou"
    assert variant["metrics"]["miou"] == pytest.approx(0.5)
    assert variant["classes"]["green"] == {"iou": 0.5, "recall": 0.5, "precision": 1.0, "pixels": 2 * SIDE * SIDE}
    half = 2 * SIDE * SIDE // 2
    assert variant["confusion"] == [
        {"labelled": "green", "answered": "green", "pixels": half},
        {"labelled": "green", "answered": "blue", "pixels": half},
        {"labelled": "blue", "answered": "blue", "pixels": half},
    ]
    said = run("evaluate", str(artifact.root), "--data", data, "--variant", "fp32")
    assert "0.5000" in said
    assert "worst of 1 confusions" in said

    without, full = tmp_path / "without.html", tmp_path / "full.html"
    assert json.loads(run("card", "tiny@1", "--out", str(without), "--json"))["published"] is False
    assert "made now" in run("card", "tiny", "--out", str(full), "--evaluation", data)
    assert "Confusion matrix" not in without.read_text()
    assert full.read_text().count("data:image/jpeg;base64,") == 3
    assert "Confusion matrix" in full.read_text()
