"""Average precision as COCO counts it, by its own code (https://cocodataset.org/#detection-eval).

Rules:
    * Ten thresholds of overlap, 0.50 to 0.95; 101 points of recall; at most 100 answers an image (20 bodies).
    * Overlap is that of boxes, of masks, or of keypoints (OKS); a crowd is ignored, as COCO does.
    * Images are compared a few at a time, and of an answer stays its score and at which thresholds it met an object:
      what a million images leave behind fits in memory. The curve is drawn in the end, by COCO's code too.
    * pycocotools prints as it goes; nobody sees that here.
"""

from __future__ import annotations

import contextlib
import io
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.evaluation.metrics.base import mean_of
from runtime.manifest import Postprocess

__all__ = [
    "COCO_SIGMAS",
    "LEAST_SCORE",
    "MOST_BODIES",
    "MOST_BOXES",
    "AveragePrecision",
    "Overlap",
    "PrecisionJudge",
    "box_record",
    "own_answers",
    "whole_curve",
]

Overlap = Literal["bbox", "segm", "keypoints"]
Record = dict[str, Any]

LEAST_SCORE = 0.001  # as Ultralytics' and YOLOX's validation take them
MOST_BOXES, MOST_BODIES = 100, 20  # answers an image that count
THRESHOLDS = 10  # of overlap
EVERY_AREA = [[0, 1e10]]
AT_ONCE = 16  # images that are compared together
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
        support: int64, (C,): objects of each category that are asked for.
    """

    ap: float
    ap50: float
    ap75: float
    recall: float
    by_category: npt.NDArray[np.float64]
    support: npt.NDArray[np.int64]


class _Matches:
    """What became of the answers and the objects of one category: 12 bytes an answer.

    Attributes:
        wanted: Objects that are asked for.
    """

    def __init__(self) -> None:
        self.wanted = 0
        self._scores = array("d")
        self._hits = array("H")  # bit t: the answer has an object at the threshold t
        self._ignored = array("H")  # bit t: at the threshold t it counts for nothing

    def add(self, one: Mapping[str, Any]) -> None:
        """Take what `COCOeval.evaluateImg` says of one image."""
        self.wanted += int(np.count_nonzero(np.asarray(one["gtIgnore"]) == 0))
        self._scores.extend(map(float, one["dtScores"]))
        self._hits.frombytes(_as_bits(one["dtMatches"]).tobytes())
        self._ignored.frombytes(_as_bits(one["dtIgnore"]).tobytes())

    def whole(self) -> Record:
        """Return it as `COCOeval.accumulate` takes it, as if all were of one image."""
        hits, ignored = (np.frombuffer(bits, np.uint16) if bits else _NO_BITS for bits in (self._hits, self._ignored))
        return {
            "dtScores": np.array(self._scores),
            "dtMatches": _of_bits(hits),
            "dtIgnore": _of_bits(ignored),
            "gtIgnore": np.zeros(self.wanted, np.uint8),
        }


_NO_BITS = np.zeros(0, np.uint16)
_PLACES = np.arange(THRESHOLDS, dtype=np.uint16)[:, None]


def _as_bits(flags: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return *flags*, (THRESHOLDS, n), as the bits of n numbers."""
    return np.asarray(((np.asarray(flags) != 0).astype(np.uint16) << _PLACES).sum(axis=0, dtype=np.uint16))


def _of_bits(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    return np.asarray((bits[None] >> _PLACES) & 1, np.bool_)


class PrecisionJudge:
    """Compares answers with objects, image by image, and keeps only which of them met.

    Args:
        categories: How many there are; a record's ``category_id`` is below it.
        overlap: Of what.
        sigmas: (K,), of the keypoints; COCO's if ``None``.
    """

    def __init__(self, categories: int, overlap: Overlap, sigmas: npt.NDArray[np.float64] | None = None) -> None:
        self._categories = categories
        self._overlap: Overlap = overlap
        self._sigmas = sigmas
        self._waiting: list[tuple[Sequence[Record], Sequence[Record], tuple[int, int]]] = []
        self._matches: defaultdict[int, _Matches] = defaultdict(_Matches)

    def add(self, truth: Sequence[Record], found: Sequence[Record], size: tuple[int, int]) -> None:
        """Take one image.

        Args:
            truth: Annotations as COCO writes them; ``id`` and ``image_id`` do not matter.
            found: The same with ``score``.
            size: (height, width), of run lengths and polygons.
        """
        self._waiting.append((truth, found, size))
        if len(self._waiting) == AT_ONCE:
            self._compare()

    def figures(self) -> AveragePrecision:
        """Return the precision of all images that were added."""
        from pycocotools.cocoeval import COCOeval

        self._compare()
        points = np.full((THRESHOLDS, self._categories), np.nan)
        recall = np.full((THRESHOLDS, self._categories), np.nan)
        for category, matches in self._matches.items():
            judge = COCOeval(iouType=self._overlap)
            judge.params.imgIds, judge.params.catIds = [0], [0]
            judge.params.maxDets = [sys.maxsize]
            judge.params.areaRng, judge.params.areaRngLbl = EVERY_AREA, ["all"]
            judge._paramsEval = judge.params  # noqa: SLF001 - where `evaluate` leaves them for `accumulate`
            judge.evalImgs = [matches.whole()]
            with contextlib.redirect_stdout(io.StringIO()):
                judge.accumulate()
            if matches.wanted:  # otherwise -1, which stands for "there is no such object"
                points[:, category] = judge.eval["precision"][..., 0, 0, 0].mean(axis=1)
                recall[:, category] = judge.eval["recall"][..., 0, 0, 0]
        return AveragePrecision(
            ap=mean_of(points),
            ap50=mean_of(points[0]),
            ap75=mean_of(points[5]),
            recall=mean_of(recall),
            by_category=np.stack([points[0], points.mean(axis=0)], axis=1),
            support=np.array([self._matches[one].wanted for one in range(self._categories)], np.int64),
        )

    def _compare(self) -> None:
        """Let COCO's code compare what waits."""
        from pycocotools.cocoeval import COCOeval

        sizes = [size for _, _, size in self._waiting]
        truth = _placed(records for records, _, _ in self._waiting)
        found = _placed(records for _, records, _ in self._waiting)
        self._waiting = []
        present = sorted({one["category_id"] for one in (*truth, *found) if one["category_id"] < self._categories})
        if not present:
            return
        with contextlib.redirect_stdout(io.StringIO()):
            judge = COCOeval(_index(truth, sizes, present), _index(found, sizes, present), self._overlap)
            judge.params.maxDets = [MOST_BODIES if self._overlap == "keypoints" else MOST_BOXES]
            judge.params.areaRng, judge.params.areaRngLbl = EVERY_AREA, ["all"]
            if self._sigmas is not None:
                judge.params.kpt_oks_sigmas = self._sigmas
            judge.evaluate()
        for one in judge.evalImgs:
            if one is not None:
                self._matches[one["category_id"]].add(one)


def _placed(images: Iterable[Sequence[Record]]) -> list[Record]:
    """Return the records of all *images*, each with the place of its image."""
    return [{**record, "image_id": place} for place, records in enumerate(images) for record in records]


def _index(records: Sequence[Record], sizes: Sequence[tuple[int, int]], categories: Sequence[int]) -> Any:
    """Return *records* as pycocotools wants them; ids begin with 1, since it takes a match with id 0 for none."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": height, "width": width} for image, (height, width) in enumerate(sizes)],
        "categories": [{"id": category} for category in categories],
        "annotations": [{"iscrowd": 0, **record, "id": number} for number, record in enumerate(records, 1)],
    }
    coco.createIndex()
    return coco


def box_record(box: Sequence[float]) -> Mapping[str, Any]:
    """Return *box*, x1, y1, x2, y2, as COCO writes it, with its area."""
    x1, y1, x2, y2 = map(float, box)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
