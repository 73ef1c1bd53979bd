"""Results as lines of JSON, one object a frame, whatever the model says."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_agent.camera.sources import Frame
from edge_agent.sinks import JsonLines, result_of
from runtime.protocol.messages import ModelState
from runtime.tasks import (
    Classification,
    ClassPixels,
    Embedding,
    Instance,
    Instances,
    LabelScore,
    Matte,
    Prediction,
    Segmentation,
)
from runtime.tasks.records import as_json, record_of

MODEL = ModelState(model="digits", version=3, manifest_sha256="0" * 64, variant="int8", provider="CPUExecutionProvider")
FRAME = Frame(number=7, name="pictures#7", image=b"")
MASK = np.eye(3, dtype=np.uint8)


@pytest.mark.parametrize(
    "prediction",
    [
        Classification(1, "cat", 0.5, (LabelScore(1, "cat", 0.5),)),
        Instances((Instance(1, "cat", 0.5, 0, 0, 3, 3, 0, 0, MASK.astype(bool)),)),
        Segmentation(MASK, (ClassPixels(0, "background", 6), ClassPixels(1, "cat", 3))),
        Matte(MASK, 0.5),
        Embedding(np.array([1, 0], np.float32)),
    ],
    ids=lambda prediction: type(prediction).__name__,
)
def test_a_result_is_a_line_with_the_record_of_its_prediction(prediction: Prediction, tmp_path: Path) -> None:
    with closing(JsonLines(tmp_path / "results.jsonl")) as sink:
        sink.write(result_of(FRAME, prediction, MODEL))
        sink.write(result_of(FRAME, prediction, MODEL))
    first, second = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    facts = {"frame": 7, "source": "pictures#7", "model": "digits@3", "variant": "int8", "provider": MODEL.provider}
    assert {name: first[name] for name in facts} == facts
    record = as_json(record_of(prediction))
    assert list(first) == ["time", *facts, *record]
    assert {name: first[name] for name in record} == {name: second[name] for name in record} == record
