"""The guide to the tasks knows every head, and shows records as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.tasks import (
    HEADS,
    Classification,
    ClassPixels,
    Detection,
    Detections,
    Embedding,
    Instance,
    Instances,
    Keypoint,
    LabelScore,
    Matte,
    Pose,
    Poses,
    Prediction,
    Segmentation,
)
from runtime.tasks.records import as_json, record_of

GUIDE = Path(__file__).parents[4] / "docs/tasks.md"
TEXT = GUIDE.read_text(encoding="utf-8") if GUIDE.exists() else ""
SHOWN = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
MASK = np.eye(2, dtype=np.uint8)
PREDICTIONS: tuple[Prediction, ...] = (
    Classification(0, "a", 0.5, (LabelScore(0, "a", 0.5),)),
    Detections((Detection(0, "a", 0.5, 0.0, 0.0, 1.0, 1.0),)),
    Instances((Instance(0, "a", 0.5, 0.0, 0.0, 1.0, 1.0, 0, 0, MASK.astype(bool)),)),
    Segmentation(MASK, (ClassPixels(0, "a", 2),)),
    Matte(MASK, 0.5),
    Poses((Pose(0.5, 0.0, 0.0, 1.0, 1.0, (Keypoint(0.5, 0.5, 0.5),)),)),
    Embedding(np.array([1], np.float32)),
)


def form(value: Any) -> Any:
    """Return the names and types in *value*, and nothing of what it says."""
    match value:
        case dict():
            return {name: form(one) for name, one in value.items()}
        case list():
            return [form(value[0])]
        case _:
            return type(value)


def test_the_table_of_heads_is_complete() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    named = {kind: line for line in rows for kind in re.findall(r"`([a-z0-9-]+)`", line.split("|")[1])}
    assert named.keys() == HEADS.keys()
    for kind, line in named.items():
        assert line.split("|")[2].strip() == HEADS[kind].task


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda one: type(one).__name__)
def test_every_kind_of_answer_is_shown_as_it_is(prediction: Prediction) -> None:
    record = form(as_json(record_of(prediction)))
    facts = {"image", "model", "variant", "provider", "decoder"}
    assert record in [form({name: one for name, one in shown.items() if name not in facts}) for shown in SHOWN]


def test_nothing_else_is_shown_but_an_error() -> None:
    assert len(SHOWN) == len(PREDICTIONS) + 1
    assert [set(shown["error"]) for shown in SHOWN if "error" in shown] == [{"reason", "detail"}]
