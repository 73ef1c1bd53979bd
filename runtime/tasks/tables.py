"""A prediction as rows of a table, for people; machines get `runtime.tasks.records`.

Rules:
    * One row of `TABLES` a kind of result: the columns, and how a prediction fills them.
    * A prediction has at least one row, so that every picture is in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.tasks.results import (
    Classification,
    Detection,
    Detections,
    Embedding,
    Instance,
    Instances,
    Matte,
    Pose,
    Poses,
    Prediction,
    Segmentation,
)

__all__ = ["TABLES", "TableForm", "table_rows"]

Row = tuple[object, ...]
BOX = ("x1", "y1", "x2", "y2")
SHOWN = 4  # numbers of an embedding


@dataclass(frozen=True, slots=True)
class TableForm:
    """How predictions of one kind are shown.

    Attributes:
        headers: Of the columns.
        rows: What a prediction fills them with.
    """

    headers: tuple[str, ...]
    rows: Callable[[Any], Sequence[Row]]


def _classification(prediction: Classification) -> list[Row]:
    others = ", ".join(f"{one.label} {one.score:.4f}" for one in prediction.top_k[1:])
    return [(prediction.label, round(prediction.score, 4), others or "-")]


def _box(one: Detection | Instance | Pose) -> Row:
    return tuple(round(value, 1) for value in (one.x1, one.y1, one.x2, one.y2))


def _detections(prediction: Detections) -> list[Row]:
    return [(one.label, round(one.score, 4), *_box(one)) for one in prediction.detections]


def _instances(prediction: Instances) -> list[Row]:
    return [(one.label, round(one.score, 4), *_box(one), int(one.mask.sum())) for one in prediction.instances]


def _segmentation(prediction: Segmentation) -> list[Row]:
    size = prediction.mask.size
    return [(one.label, one.pixels, f"{one.pixels / size:.2%}") for one in prediction.classes]


def _poses(prediction: Poses) -> list[Row]:
    return [
        (number, round(one.score, 4), *_box(one), len(one.keypoints)) for number, one in enumerate(prediction.poses)
    ]


def _embedding(prediction: Embedding) -> list[Row]:
    numbers = ", ".join(f"{value:.4f}" for value in prediction.embedding[:SHOWN].tolist())
    return [(len(prediction.embedding), f"{numbers}, ..." if len(prediction.embedding) > SHOWN else numbers)]


TABLES: Mapping[type[Prediction], TableForm] = {
    Classification: TableForm(("label", "score", "others"), _classification),
    Detections: TableForm(("label", "score", *BOX), _detections),
    Instances: TableForm(("label", "score", *BOX, "pixels"), _instances),
    Segmentation: TableForm(("label", "pixels", "share"), _segmentation),
    Matte: TableForm(("foreground",), lambda prediction: [(f"{prediction.coverage:.2%}",)]),
    Poses: TableForm(("pose", "score", *BOX, "keypoints"), _poses),
    Embedding: TableForm(("dimensions", "embedding"), _embedding),
}
"""By kind of result."""


def table_rows(prediction: Prediction) -> list[Row]:
    """Return the rows of *prediction*; one of dashes where it found nothing."""
    form = TABLES[type(prediction)]
    return list(form.rows(prediction)) or [("-",) * len(form.headers)]
