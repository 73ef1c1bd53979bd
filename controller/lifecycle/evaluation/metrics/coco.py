"""Average precision as COCO counts it, by its own code (https://cocodataset.org/#detection-eval).

Rules:
    * Ten thresholds of overlap, 0.50 to 0.95; 101 points of recall; at most 100 answers an image (20 bodies).
    * Overlap is that of boxes, of masks, or of keypoints (OKS); a crowd is ignored, as COCO does.
    * pycocotools prints as it goes; nobody sees that here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from controller.lifecycle.evaluation.metrics.base import mean_of
from runtime.manifest import Postprocess

__all__ = [
    "COCO_SIGMAS",
    "LEAST_SCORE",
    "MOST_BODIES",
    "MOST_BOXES",
    "AveragePrecision",
    "Overlap",
    "average_precision",
    "box_record",
    "own_answers",
    "whole_curve",
]

Overlap = Literal["bbox", "segm", "keypoints"]
Record = dict[str, Any]

LEAST_SCORE = 0.001  # as Ultralytics' and YOLOX's validation take them
MOST_BOXES, MOST_BODIES = 100, 20  # answers an image that count
COCO_SIGMAS = np.array(
    [
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ]
)
"""How much people differ where they put each of COCO's 17 keypoints: https://cocodataset.org/#keypoints-eval."""


class Scored(Protocol):
    """An answer with a score, 0 to 1."""

    @property
    def score(self) -> float:
        """How sure the model is of it."""


Answer = TypeVar("Answer", bound=Scored)


def whole_curve(own: Postprocess, most: int) -> Mapping[str, Any]:
    """Return the changes of *own* by which almost every answer comes, *most* an image at the least."""
    return {
        "score_threshold": min(LEAST_SCORE, own.score_threshold),
        "max_detections": max(most, own.max_detections),
    }


def own_answers(found: Sequence[Answer], own: Postprocess) -> tuple[Answer, ...]:
    """Return those of *found*, the surest first, that a model of *own* gives by itself."""
    return tuple(one for one in found if one.score >= own.score_threshold)[: own.max_detections]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AveragePrecision:
    """The result, means over the categories that occur.

    Attributes:
        ap: Mean over the ten thresholds.
        ap50: At 0.50.
        ap75: At 0.75.
        recall: The best recall, mean over the thresholds.
        by_category: float64, (C, 2): `ap50` and `ap` of each category; NaN where it does not occur.
    """

    ap: float
    ap50: float
    ap75: float
    recall: float
    by_category: npt.NDArray[np.float64]


def average_precision(
    truth: Iterable[Record],
    found: Iterable[Record],
    sizes: Sequence[tuple[int, int]],
    categories: int,
    overlap: Overlap,
    sigmas: npt.NDArray[np.float64] | None = None,
) -> AveragePrecision:
    """Return how well *found* answers *truth*.

    Args:
        truth: Annotations as COCO writes them, ``image_id`` being the place in *sizes* and ``category_id`` below
            *categories*; ``id`` does not matter.
        found: The same with ``score``.
        sizes: (height, width) of each image.
        categories: How many there are.
        overlap: Of what.
        sigmas: (K,), of the keypoints; COCO's if ``None``.
    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_index(truth, sizes, categories), _index(found, sizes, categories), overlap)
        most = MOST_BODIES if overlap == "keypoints" else MOST_BOXES
        judge.params.maxDets = [most]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        if sigmas is not None:
            judge.params.kpt_oks_sigmas = sigmas
        judge.evaluate()
        judge.accumulate()
    # -1 stands for "there is no such object": (thresholds, recalls, categories) and (thresholds, categories)
    precision = np.where(judge.eval["precision"][..., 0, 0] < 0, np.nan, judge.eval["precision"][..., 0, 0])
    recall = np.where(judge.eval["recall"][..., 0, 0] < 0, np.nan, judge.eval["recall"][..., 0, 0])
    points = precision.mean(axis=1)
    return AveragePrecision(
        ap=mean_of(points),
        ap50=mean_of(points[0]),
        ap75=mean_of(points[5]),
        recall=mean_of(recall),
        by_category=np.stack([points[0], points.mean(axis=0)], axis=1),
    )


def _index(records: Iterable[Record], sizes: Sequence[tuple[int, int]], categories: int) -> Any:
    """Return *records* as pycocotools wants them; ids begin with 1, since it takes a match with id 0 for none."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": height, "width": width} for image, (height, width) in enumerate(sizes)],
        "categories": [{"id": category} for category in range(categories)],
        "annotations": [{"iscrowd": 0, **record, "id": number} for number, record in enumerate(records, 1)],
    }
    coco.createIndex()
    return coco


def box_record(box: Sequence[float]) -> Mapping[str, Any]:
    """Return *box*, x1, y1, x2, y2, as COCO writes it, with its area."""
    x1, y1, x2, y2 = map(float, box)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
