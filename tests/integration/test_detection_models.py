"""Real detectors find what independent scripts found with the same files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_of import artifact_of

from runtime.images import read
from runtime.manifest import Postprocess, Preprocess, Resize
from runtime.predictor import Predictor
from runtime.session import SessionOptions
from runtime.tasks import Detections

pytestmark = pytest.mark.integration

REFERENCE = "reference/detections_coco12.json"
PICTURES = "images/coco12"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a manifest says of one of the real models."""

    preprocess: Preprocess
    postprocess: Postprocess


MODELS: Mapping[str, Model] = {
    "yolox_nano": Model(
        preprocess=Preprocess(
            color="BGR", resize=Resize(mode="letterbox", size=(416, 416), anchor="top-left", antialias=False)
        ),
        postprocess=Postprocess(
            kind="yolox", activation="none", strides=(8, 16, 32), score_threshold=0.25, iou_threshold=0.45
        ),
    ),
    "deimv2_atto": Model(
        preprocess=Preprocess(resize=Resize(mode="exact", size=(320, 320), antialias=False), scale=1 / 255),
        postprocess=Postprocess(kind="boxes", activation="none", boxes="xyxy", score_threshold=0.4),
    ),
}

Found = tuple[int, str, float, np.ndarray]
"""Label id, label, score, box x1 y1 x2 y2."""


@pytest.fixture(scope="module")
def reference(test_data: Callable[[str], Path]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By model and picture, what is there; boxes are not clipped."""
    return json.loads(test_data(REFERENCE).read_text())


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def predictor(model: str, reference, test_data, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of the model's artifact, with the reference's names for the classes that occur there."""
    names = {
        one["label_id"]: one["label"] for images in reference.values() for found in images.values() for one in found
    }
    artifact = artifact_of(
        {"fp32": test_data(f"models/{model}.onnx")},
        tmp_path_factory.mktemp(model) / "artifact",
        MODELS[model].preprocess,
        MODELS[model].postprocess,
        task="detection",
        labels=tuple(names.get(label_id, f"class_{label_id}") for label_id in range(80)),
    )
    return Predictor(artifact, provider="cpu", options=SessionOptions(intra_op_threads=2))


def objects(found: Detections) -> list[Found]:
    return [
        (one.label_id, one.label, one.score, np.array((one.x1, one.y1, one.x2, one.y2))) for one in found.detections
    ]


def expected_objects(found: list[dict[str, Any]], height: int, width: int) -> list[Found]:
    clipped = [np.clip(one["box"], 0, [width, height, width, height]) for one in found]
    return [(one["label_id"], one["label"], one["score"], box) for one, box in zip(found, clipped, strict=True)]


def test_boxes_scores_and_classes_are_those_of_the_reference(
    model: str, predictor: Predictor, reference, test_data
) -> None:
    folder = test_data(PICTURES)
    pictures = {name: read(folder / name).pixels for name in reference[model]}
    predictions = predictor.predict(list(pictures.values()))
    total = 0
    for (name, pixels), prediction in zip(pictures.items(), predictions, strict=True):
        found = objects(prediction)
        assert [one[2] for one in found] == sorted((one[2] for one in found), reverse=True)
        for label_id, label, score, box in expected_objects(reference[model][name], *pixels.shape[:2]):
            partner = min(
                (one for one in found if one[:2] == (label_id, label)),
                key=lambda one: np.abs(one[3] - box).max(),
            )
            assert np.abs(partner[3] - box).max() <= 1, f"{name}: {label} {score} at {box}; found {partner}"
            assert partner[2] == pytest.approx(score, abs=0.01), f"{name}: {label} at {box}"
            found = [one for one in found if one is not partner]
            total += 1
        assert not found, f"{name}: the reference has no {found}"
    assert total >= 30


def test_a_picture_alone_and_in_a_batch_is_answered_alike(predictor: Predictor, test_data) -> None:
    folder = test_data(PICTURES)
    paths = sorted(folder.glob("*.jpg"))[:4]
    together = predictor.predict(paths)
    for path, prediction in zip(paths, together, strict=True):
        alone = objects(predictor.predict([path])[0])
        assert [one[:2] for one in alone] == [one[:2] for one in objects(prediction)]
        for one, other in zip(alone, objects(prediction), strict=True):
            np.testing.assert_allclose(one[3], other[3], atol=0.05)
            assert one[2] == pytest.approx(other[2], abs=1e-4)


def test_the_threshold_of_a_call_is_that_of_its_answers(model: str, predictor: Predictor, reference, test_data) -> None:
    name = max(reference[model], key=lambda name: len(reference[model][name]))
    path = test_data(PICTURES) / name
    usual = predictor.predict([path])[0].detections
    surer = predictor.predict([path], score_threshold=0.6)[0].detections
    assert 0 < len(surer) < len(usual)
    assert surer == tuple(one for one in usual if one.score >= 0.6)
    assert predictor.predict([path], max_detections=1)[0].detections == usual[:1]
