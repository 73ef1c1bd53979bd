"""Detection and instances: COCO's figures where they are known by hand, and counts at the model's own threshold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from detection_heads import manifest_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from runtime.datasets import Objects
from runtime.errors import DatasetError
from runtime.evaluation.metrics import METRICS, Confusion
from runtime.evaluation.metrics.boxes import greedy_pairs, overlaps
from runtime.evaluation.metrics.coco import AT_ONCE
from runtime.evaluation.metrics.detection import DetectionJudge, found_record, truth_records
from runtime.evaluation.metrics.instances import InstancesJudge
from runtime.evaluation.outlines import canvas_of, mask_rle, outline_mask
from runtime.tasks import Detection, Detections, Instance, Instances

LABELS = ("cat", "dog", "kite")
SIZE = (100, 100)


def objects(*found: tuple[int, Sequence[float]], crowd: Sequence[int] = (), **more: Any) -> Objects:
    boxes = np.array([box for _, box in found], np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Objects(
        boxes=boxes,
        labels=np.array([label for label, _ in found], np.int64),
        crowd=np.isin(np.arange(len(found)), crowd),
        areas=sides.prod(axis=1),
        **more,
    )


def answers(*found: tuple[int, float, Sequence[float]]) -> Detections:
    return Detections(tuple(Detection(label, LABELS[label], score, *box) for label, score, box in found))


def judge_of(*images: tuple[Detections, Objects], **postprocess: Any) -> DetectionJudge:
    judge = DetectionJudge(manifest_of("boxes", LABELS, **{"score_threshold": 0.5, **postprocess}))
    for prediction, truth in images:
        judge.add(prediction, truth, SIZE)
    return judge


LEFT, RIGHT = (0, 0, 40, 40), (50, 50, 90, 90)


def test_overlap_is_intersection_over_union() -> None:
    found = overlaps(np.array([[0.0, 0, 2, 2], [5, 5, 5, 5]]), np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [9, 9, 10, 10]]))
    np.testing.assert_allclose(found, [[1 / 7, 1, 0], [0, 0, 0]])


def test_each_box_has_one_partner_the_likest_first() -> None:
    assert greedy_pairs(np.array([[0.6, 0.9], [0.8, 0.7], [0.1, 0.2]]), 0.5) == [(0, 1), (1, 0)]


def test_right_answers_have_an_average_precision_of_one() -> None:
    truth = objects((0, LEFT), (1, RIGHT))
    figures = judge_of((answers((0, 0.9, LEFT), (1, 0.8, RIGHT)), truth)).figures()
    assert figures.metrics == pytest.approx({"map50_95": 1, "map50": 1, "map75": 1, "ar100": 1})


def test_an_overlap_of_0825_is_right_at_seven_of_ten_thresholds() -> None:
    figures = judge_of((answers((0, 0.9, (0, 0, 40, 33))), objects((0, LEFT)))).figures()
    assert figures.metrics["map50_95"] == pytest.approx(0.7)  # 0.50, 0.55, ..., 0.80
    assert (figures.metrics["map50"], figures.metrics["map75"]) == pytest.approx((1, 1))


def test_a_surer_wrong_answer_halves_the_precision() -> None:
    figures = judge_of((answers((0, 0.9, RIGHT), (0, 0.8, LEFT)), objects((0, LEFT)))).figures()
    assert figures.metrics["map50"] == pytest.approx(0.5)


def test_unsure_answers_count_for_the_precision_and_not_for_the_rest() -> None:
    judge = judge_of((answers((0, 0.9, LEFT), (1, 0.01, RIGHT)), objects((0, LEFT), (1, RIGHT))))
    figures = judge.figures()
    assert figures.metrics["map50"] == pytest.approx(1)
    assert judge.changes["score_threshold"] == 0.001
    verdict = judge.add(answers((0, 0.9, LEFT), (1, 0.01, RIGHT)), objects((0, LEFT), (1, RIGHT)), SIZE)
    assert [one.label for one in verdict.shown.detections] == ["cat"]
    assert METRICS[Detections].answer(verdict.shown).labels.tolist() == [0]
    assert verdict.said == "1 of 2 objects found"


def test_confusions_missed_objects_and_ghosts_have_their_cells() -> None:
    truth = objects((0, LEFT), (2, (60, 0, 90, 20)))
    figures = judge_of((answers((1, 0.9, LEFT), (1, 0.8, RIGHT)), truth)).figures()
    assert figures.confusion is not None
    cat, dog, kite, nothing = range(4)
    expected = np.zeros((4, 4), np.int64)
    expected[cat, dog] = expected[kite, nothing] = expected[nothing, dog] = 1
    np.testing.assert_array_equal(figures.confusion.counts, expected)


def test_mistakes_are_listed_the_most_frequent_first_with_their_share() -> None:
    counts = np.array([[5, 1, 0], [2, 2, 1], [0, 0, 0]])
    found = Confusion(labels=LABELS, counts=counts, unit="objects").mistakes
    assert [(one.labelled, one.answered, one.count) for one in found] == [
        ("dog", "cat", 2),
        ("dog", "kite", 1),
        ("cat", "dog", 1),
    ]
    assert [one.share for one in found] == pytest.approx([2 / 5, 1 / 5, 1 / 6])
    assert Confusion(labels=LABELS, counts=np.eye(3, dtype=np.int64), unit="objects").mistakes == ()


def test_a_crowd_is_neither_asked_for_nor_held_against_an_answer() -> None:
    truth = objects((0, LEFT), (0, RIGHT), crowd=[1])
    for found in ([(0, 0.9, LEFT)], [(0, 0.95, RIGHT), (0, 0.9, LEFT), (0, 0.92, RIGHT)]):
        figures = judge_of((answers(*found), truth)).figures()
        assert figures.metrics["map50"] == pytest.approx(1)
        assert figures.confusion is not None
        assert figures.confusion.counts.sum() == 1
        assert figures.classes is not None
        assert figures.classes.rows[0] == ("cat", pytest.approx((1, 1, 1)))


def test_classes_that_do_not_occur_have_no_average_precision() -> None:
    figures = judge_of((answers((1, 0.9, LEFT)), objects((0, LEFT)))).figures()
    assert figures.metrics["map50"] == 0
    assert figures.classes is not None
    assert np.isnan(figures.classes.rows[1][1][0])


def test_agreement_of_boxes_asks_for_a_partner_of_the_same_class() -> None:
    answer = METRICS[Detections].answer
    one = [answer(answers((0, 0.9, LEFT), (1, 0.9, RIGHT)))]
    other = [answer(answers((0, 0.6, (0, 0, 40, 30)), (2, 0.9, RIGHT)))]
    agreement = METRICS[Detections].agreement
    assert agreement(one, one) == 1
    assert agreement(one, other) == 0.5
    assert agreement([], []) == 1


POLYGON = [[0, 0, 40, 0, 40, 40, 0, 40]]


def instance(label: int, score: float, box: tuple[int, int, int, int], rows: int) -> Instance:
    """An object that fills the upper *rows* of its *box*."""
    x1, y1, x2, y2 = box
    mask = np.zeros((y2 - y1, x2 - x1), np.bool_)
    mask[:rows] = True
    return Instance(label, LABELS[label], score, *box, x1, y1, mask)


def test_masks_are_judged_by_their_own_overlap_and_their_boxes_beside() -> None:
    judge = InstancesJudge(manifest_of("boxes-seg", LABELS, task="segmentation", score_threshold=0.5))
    truth = objects((0, LEFT), outlines=(POLYGON,))
    judge.add(Instances((instance(0, 0.9, LEFT, 33),)), truth, SIZE)  # 0.825 of the mask, all of the box
    metrics = judge.figures().metrics
    assert metrics["map50_95"] == pytest.approx(0.7)
    assert metrics["box_map50_95"] == pytest.approx(1)


def test_no_more_instances_are_shown_and_counted_than_the_model_itself_gives() -> None:
    judge = InstancesJudge(manifest_of("boxes-seg", LABELS, task="segmentation", score_threshold=0.5, max_detections=1))
    truth = objects((0, LEFT), outlines=(POLYGON,))
    found = Instances((instance(0, 0.9, LEFT, 40), instance(1, 0.8, RIGHT, 40), instance(2, 0.1, RIGHT, 40)))
    assert judge.add(found, truth, SIZE).shown == Instances(found.instances[:1])
    confusion = judge.figures().confusion
    assert confusion is not None
    assert confusion.counts.sum() == confusion.counts[0, 0] == 1


def test_outlines_are_polygons_or_run_lengths() -> None:
    square = np.zeros(SIZE, np.bool_)
    square[:40, :40] = True
    np.testing.assert_array_equal(outline_mask(POLYGON, SIZE), square)
    compressed = mask_rle(square)
    counts = [0, *([40, 60] * 39), 40, 6060]  # columns from the left, each from the top
    for written in (
        compressed,
        compressed | {"counts": compressed["counts"].decode()},
        {"size": SIZE, "counts": counts},
    ):
        np.testing.assert_array_equal(outline_mask(written, SIZE), square)


@pytest.mark.parametrize("outline", [[[1, 2]], "text", {"size": SIZE}, [["a", 1, 2, 3, 4, 5]], []])
def test_what_is_no_outline_is_named(outline: Any) -> None:
    with pytest.raises(DatasetError, match="an outline is no list of polygons and no run lengths"):
        outline_mask(outline, SIZE)


def test_without_a_size_outlines_and_answers_are_compared_on_the_least_that_holds_them() -> None:
    found = Instances((instance(0, 0.9, LEFT, 33), instance(0, 0.9, (80, 10, 90, 30), 20)))
    assert canvas_of([[[0, 0, 10, 0, 10.5, 60.2]]], found) == (61, 90)
    assert canvas_of([], Instances(())) == (1, 1)
    assert canvas_of([mask_rle(np.ones((100, 120), np.bool_))], found) == (100, 120)
    with pytest.raises(
        DatasetError, match=r"picture of \(60, 80\) \(width, height\); another one reaches to \(90, 40\)"
    ):
        canvas_of([mask_rle(np.ones((80, 60), np.bool_))], found)


def test_an_outline_of_another_size_is_named() -> None:
    small = mask_rle(np.ones((10, 10), np.bool_))
    with pytest.raises(DatasetError, match=r"of a picture of \(10, 10\)"):
        outline_mask(small, SIZE)


def test_many_images_of_chance_have_the_figures_of_coco_s_code_in_one_go() -> None:
    random = np.random.default_rng(3)
    judge = judge_of()
    truth, found = [], []
    for image in range(3 * AT_ONCE // 2):
        wanted, given = (random.uniform(0, 60, (int(count), 2)) for count in random.integers(0, 6, 2))
        corners = [(place % 3, (x, y, x + 30, y + 30)) for place, (x, y) in enumerate(wanted.tolist())]
        labelled = objects(*corners, crowd=[0] if image % 5 == 0 and corners else [])
        near = given.copy()
        near[: len(wanted)] = wanted[: len(given)] + random.normal(0, 4, wanted[: len(given)].shape)
        scores = random.choice(np.linspace(0.1, 0.9, 9), len(near))  # many are equal
        places = enumerate(zip(scores.tolist(), near.tolist(), strict=True))
        said = answers(*((place % 3, score, (x, y, x + 30, y + 30)) for place, (score, (x, y)) in places))
        judge.add(said, labelled, SIZE)
        truth += [{**one, "image_id": image} for one in truth_records(labelled)]
        found += [{**found_record(one), "image_id": image} for one in said.detections]
    images = [{"id": image, "height": 100, "width": 100} for image in range(3 * AT_ONCE // 2)]
    categories = [{"id": category} for category in range(3)]
    with contextlib.redirect_stdout(io.StringIO()):
        indexed = []
        for records in (truth, found):
            coco = COCO()
            annotations = [{"iscrowd": 0, **one, "id": number} for number, one in enumerate(records, 1)]
            coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
            coco.createIndex()
            indexed.append(coco)
        whole = COCOeval(*indexed, "bbox")
        whole.evaluate()
        whole.accumulate()
        whole.summarize()
    metrics = judge.figures().metrics
    figures = [metrics[name] for name in ("map50_95", "map50", "map75", "ar100")]
    np.testing.assert_allclose(figures, whole.stats[[0, 1, 2, 8]], rtol=1e-12)
    assert 0.02 < metrics["map50_95"] < 0.9
