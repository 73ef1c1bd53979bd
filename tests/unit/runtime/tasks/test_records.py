"""Predictions as plain records: named as the design names them, the same bytes every time."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from runtime.palette import color_of
from runtime.tasks import (
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
from runtime.tasks.records import READ_BACK, RECORDS, as_json, class_mask_png, prediction_of, record_of
from runtime.tasks.tables import TABLES, table_rows

SHAPE = np.array([[True, False, True], [False, True, True]])
GREYS = np.array([[0, 100, 255], [3, 2, 1]], np.uint8)
CAT = {"label_id": 2, "label": "cat", "score": 0.75}
BOX = {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}

EXAMPLES: list[tuple[Prediction, dict[str, Any], list[tuple[object, ...]]]] = [
    (
        Classification(2, "cat", 0.75, (LabelScore(2, "cat", 0.75), LabelScore(0, "dog", 0.25))),
        CAT | {"top_k": [CAT, {"label_id": 0, "label": "dog", "score": 0.25}]},
        [("cat", 0.75, "dog 0.2500")],
    ),
    (
        Detections((Detection(2, "cat", 0.75, 1.0, 2.0, 3.0, 4.0),)),
        {"detections": [CAT | BOX]},
        [("cat", 0.75, 1.0, 2.0, 3.0, 4.0)],
    ),
    (Detections(()), {"detections": []}, [("-",) * 6]),
    (
        Instances((Instance(2, "cat", 0.75, 1.0, 2.0, 3.0, 4.0, 5, 6, SHAPE),)),
        {"instances": [CAT | BOX | {"left": 5, "top": 6, "mask": SHAPE}]},
        [("cat", 0.75, 1.0, 2.0, 3.0, 4.0, 4)],
    ),
    (
        Segmentation(GREYS, (ClassPixels(2, "cat", 5), ClassPixels(0, "dog", 1))),
        {
            "mask": GREYS,
            "classes": [{"label_id": 2, "label": "cat", "pixels": 5}, {"label_id": 0, "label": "dog", "pixels": 1}],
        },
        [("cat", 5, "83.33%"), ("dog", 1, "16.67%")],
    ),
    (Matte(GREYS, 0.25), {"mask": GREYS, "coverage": 0.25}, [("25.00%",)]),
    (
        Poses((Pose(0.5, 1.0, 2.0, 3.0, 4.0, (Keypoint(7.0, 8.0, 0.25),)),)),
        {"poses": [{"score": 0.5} | BOX | {"keypoints": [{"x": 7.0, "y": 8.0, "score": 0.25}]}]},
        [(0, 0.5, 1.0, 2.0, 3.0, 4.0, 1)],
    ),
    (Embedding(np.array([0.6, 0.8], np.float32)), {"embedding": [0.6, 0.8]}, [(2, "0.6000, 0.8000")]),
]


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def shown(value: Any) -> Any:
    """Return *value* with the array that each PNG shows, as lists."""
    match value:
        case bytes():
            return decoded(value).tolist()
        case np.ndarray():
            return value.tolist()
        case dict():
            return {key: shown(one) for key, one in value.items()}
        case list():
            return [shown(one) for one in value]
        case float():
            return pytest.approx(value)
        case _:
            return value


def test_every_kind_of_result_has_a_record_and_a_table() -> None:
    assert (
        set(RECORDS)
        == set(READ_BACK)
        == set(TABLES)
        == set(get_args(Prediction))
        == {type(example[0]) for example in EXAMPLES}
    )


@pytest.mark.parametrize(("prediction", "record", "rows"), EXAMPLES)
def test_records_have_the_names_and_values_of_the_design(
    prediction: Prediction, record: dict[str, Any], rows: list[tuple[object, ...]]
) -> None:
    found = record_of(prediction)
    assert list(found) == list(record)
    assert shown(found) == shown(record)
    assert record_of(dataclasses.replace(prediction)) == found


@pytest.mark.parametrize(("prediction", "record", "rows"), EXAMPLES)
def test_a_record_is_the_prediction_again(
    prediction: Prediction, record: dict[str, Any], rows: list[tuple[object, ...]]
) -> None:
    back = prediction_of(type(prediction), record_of(prediction))
    assert type(back) is type(prediction)
    assert record_of(back) == record_of(prediction)
    for field in dataclasses.fields(prediction):
        if isinstance(given := getattr(prediction, field.name), np.ndarray):
            assert getattr(back, field.name).dtype == given.dtype


def test_a_mask_of_16_bits_is_one_again() -> None:
    ids = np.array([[0, 256], [65535, 7]], np.uint16)
    back = prediction_of(Segmentation, record_of(Segmentation(ids, ())))
    assert isinstance(back, Segmentation)
    assert back.mask.dtype == np.uint16
    np.testing.assert_array_equal(back.mask, ids)


@pytest.mark.parametrize(("prediction", "record", "rows"), EXAMPLES)
def test_json_holds_the_record_with_masks_as_base64(
    prediction: Prediction, record: dict[str, Any], rows: list[tuple[object, ...]]
) -> None:
    def restored(value: Any) -> Any:
        match value:
            case dict():
                return {key: base64.b64decode(one) if key == "mask" else restored(one) for key, one in value.items()}
            case list():
                return [restored(one) for one in value]
            case _:
                return value

    plain = record_of(prediction)
    assert restored(json.loads(json.dumps(as_json(plain)))) == plain


@pytest.mark.parametrize(("prediction", "record", "rows"), EXAMPLES)
def test_a_table_has_a_column_for_each_of_its_headers(
    prediction: Prediction, record: dict[str, Any], rows: list[tuple[object, ...]]
) -> None:
    found = table_rows(prediction)
    assert found == rows
    assert {len(row) for row in found} == {len(TABLES[type(prediction)].headers)}


def test_the_palette_index_of_a_mask_is_the_class() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with Image.open(io.BytesIO(class_mask_png(ids))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), ids)
        colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert tuple(colors[0]) == (0, 0, 0)
    assert [tuple(color) for color in colors[1:].tolist()] == [color_of(index) for index in range(1, 256)]


def test_classes_beyond_255_take_16_bits() -> None:
    ids = np.array([[0, 256], [65535, 7]], np.uint16)
    with Image.open(io.BytesIO(class_mask_png(ids))) as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), ids)


def test_an_instance_is_one_bit_a_pixel() -> None:
    (instance,) = record_of(Instances((Instance(0, "a", 1.0, 0, 0, 3, 2, 0, 0, SHAPE),)))["instances"]
    with Image.open(io.BytesIO(instance["mask"])) as image:
        assert image.mode == "1"
