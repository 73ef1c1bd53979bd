"""Evaluation of real artifacts, whose right answers are known, through the predictor that every place uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from listed_rows import Listed
from task_models import KEYPOINTS, SIDE, write_task_artifact

from controller.lifecycle.evaluation.evaluate import Evaluation, evaluate
from runtime.artifact import Artifact
from runtime.datasets import Objects, Row
from runtime.errors import DatasetError
from runtime.tasks.records import class_mask_png

GREEN, BLUE, RED = (0, 200, 0), (0, 0, 200), (200, 0, 0)


def listed(given: Sequence[Mapping[str, Any]]) -> Listed:
    """Return rows of what is *given*, without a label where none is."""
    nothing = {"label": None, "source_row": 0}
    rows = (Row(**(nothing | {"source_file": f"{n}.png"} | dict(known))) for n, known in enumerate(given))
    return Listed(tuple(rows))


def plain(color: tuple[int, int, int], side: int = 2 * SIDE) -> np.ndarray:
    return np.full((side, side, 3), color, np.uint8)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    root = tmp_path_factory.mktemp("tiny")
    names = tuple(f"point {number}" for number in range(len(KEYPOINTS)))
    return {
        "semantic": write_task_artifact("semantic", root / "semantic"),
        "saliency": write_task_artifact("saliency", root / "saliency"),
        "movenet": write_task_artifact("movenet", root / "movenet", keypoints=names),
        "embedding": write_task_artifact("embedding", root / "embedding"),
    }


def mask(ids: np.ndarray) -> bytes:
    return class_mask_png(ids.astype(np.uint8))


def segmented(artifact: Artifact) -> Evaluation:
    half = plain(GREEN)
    half[SIDE:] = BLUE
    right = np.where(np.arange(2 * SIDE) < SIDE, 1, 2)[:, None].repeat(2 * SIDE, axis=1)
    rows = ({"image": half, "mask": mask(right)}, {"image": plain(GREEN), "mask": mask(np.full((16, 16), 2))})
    return evaluate(artifact, "fp32", listed(rows))


def test_a_segmenter_is_judged_by_masks(artifacts: Mapping[str, Artifact]) -> None:
    found = segmented(artifacts["semantic"])
    assert found.primary == "miou"
    assert found.metrics["miou"] == pytest.approx((128 / 384 + 128 / 384) / 2)
    assert found.metrics["pixel_accuracy"] == 0.5
    assert found.images == 2
    assert found.provider == "CPUExecutionProvider"
    assert found.agreement(found) == 1
    assert [example.truth for example in found.examples] == [
        "100.0% of the labelled pixels right",
        "0.0% of the labelled pixels right",
    ]
    assert all(example.jpeg.startswith(b"\xff\xd8") for example in found.examples)


def test_mattes_are_judged_by_masks(artifacts: Mapping[str, Artifact]) -> None:
    rows = tuple(
        {"image": plain((red, 0, 0)), "mask": mask(np.full((16, 16), truth))} for red, truth in ((255, 255), (51, 0))
    )
    found = evaluate(artifacts["saliency"], "fp32", listed(rows))
    assert found.primary == "max_f"
    assert found.metrics == pytest.approx({"max_f": 1, "iou": 1, "mae": 0.1})


def body(side: int, shift: float = 0.0) -> Objects:
    points = [[x * side + shift, y * side, 2.0] for y, x, _ in KEYPOINTS]
    return Objects(
        boxes=np.array([[0.0, 0.0, side, side]]),
        labels=np.array([0]),
        crowd=np.array([False]),
        areas=np.array([float(side * side)]),
        keypoints=np.array([points]),
    )


def test_a_pose_is_judged_by_keypoints(artifacts: Mapping[str, Artifact]) -> None:
    def judged(shift: float) -> Evaluation:
        return evaluate(artifacts["movenet"], "fp32", listed(({"image": plain(RED), "objects": body(16, shift)},)))

    assert judged(0).metrics["oks_ap"] == pytest.approx(1)
    assert judged(0).notes == ("OKS with the sigma 0.067 for all 3 keypoints: COCO's are for its 17",)
    assert judged(8).metrics["oks_ap"] == 0


def test_embeddings_are_judged_by_labels_of_any_kind(artifacts: Mapping[str, Artifact]) -> None:
    pairs = ((GREEN, 500), ((10, 220, 10), 500), (BLUE, 7), ((10, 10, 220), 7))
    rows = tuple({"image": plain(color), "label": label} for color, label in pairs)
    assert evaluate(artifacts["embedding"], "fp32", listed(rows)).metrics == {"recall1": 1}


def test_images_that_cannot_be_used_are_counted_and_said(artifacts: Mapping[str, Artifact]) -> None:
    rows = (
        {"image": plain(GREEN), "mask": mask(np.ones((16, 16)))},
        {"image": b"text"},
        {"image": None},
        {"image": b""},
    )
    found = evaluate(artifacts["semantic"], "fp32", listed(rows))
    assert found.images == 1
    assert found.skipped == {"not_an_image": 1, "missing": 1, "empty": 1}
    assert found.notes == ("images that could not be used: 1 empty, 1 missing, 1 not_an_image",)
    with pytest.raises(DatasetError, match="listed has no usable image: 1 empty"):
        evaluate(artifacts["semantic"], "fp32", listed(({"image": b""},)))


def test_data_in_which_nothing_is_labelled_is_an_error(artifacts: Mapping[str, Artifact]) -> None:
    nothing = listed(({"image": plain(GREEN), "mask": mask(np.full((16, 16), 255))},))
    with pytest.raises(DatasetError, match="listed has nothing that mIoU could be measured by"):
        evaluate(artifacts["semantic"], "fp32", nothing)


def test_the_same_data_shows_the_same_examples(artifacts: Mapping[str, Artifact]) -> None:
    rows = tuple(
        {"image": plain((0, 100 + number, 0)), "mask": mask(np.full((16, 16), number % 3))} for number in range(30)
    )
    first, second = (evaluate(artifacts["semantic"], "fp32", listed(rows)) for _ in range(2))
    assert first.examples == second.examples
    assert len(first.examples) == 6
    assert len({example.number for example in first.examples}) == 6
