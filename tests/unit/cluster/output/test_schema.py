"""The columns of the output: kept ones, and what a model of any head says."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cluster.errors import SchemaError
from cluster.output.schema import (
    Kept,
    file_metadata,
    kept_fields,
    named_apart,
    output_schema,
    prediction_arrays,
    task_columns,
)
from runtime.artifact import Artifact
from runtime.errors import ModelError
from runtime.manifest import Manifest, Tensor
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
    Segmentation,
)

INPUT = pa.schema(
    [
        pa.field("id", pa.int16(), nullable=False, metadata={"a": "b"}),
        ("label", pa.int64()),
        ("x", pa.int8()),
        ("x", pa.int8()),
    ]
)


def test_the_output_has_kept_columns_then_the_source_then_the_answer(artifact: Artifact):
    fields = kept_fields(INPUT, [Kept.parse("id"), Kept.parse("label=truth")])
    schema = output_schema(task_columns(artifact.manifest), fields)
    assert schema.names == ["id", "truth", "source_file", "source_row", "label_id", "label", "score", "top_k"]
    assert schema.field("id") == pa.field("id", pa.int16(), nullable=False)
    assert schema.field("id").metadata is None


def test_a_column_called_like_one_of_the_output_is_kept_under_another_name(artifact: Artifact):
    kept = named_apart([Kept.parse("label"), Kept.parse("id"), Kept.parse("x=truth")], task_columns(artifact.manifest))
    assert [one.name for one in kept] == ["input_label", "id", "truth"]
    assert [one.column for one in kept] == ["label", "id", "x"]


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        (["id=score"], "--keep score"),
        (["id", "label=id"], "id twice"),
        (["nope"], "no column 'nope'; its columns are: id, label, x, x"),
        (["x"], "2 columns called 'x'"),
        (["=a"], "expected COLUMN"),
        (["a="], "expected COLUMN"),
    ],
)
def test_columns_that_clash_or_are_missing_are_refused(keep, text, artifact: Artifact):
    with pytest.raises(SchemaError, match=text):
        output_schema(task_columns(artifact.manifest), kept_fields(INPUT, [Kept.parse(one) for one in keep]))


def of_head(manifest: Manifest, task: str, kind: str, *outputs: Tensor, **postprocess: Any) -> Manifest:
    """Return *manifest* as that of a model with another head."""
    changed = manifest.model_dump(by_alias=True) | {"task": task, "postprocess": {"kind": kind, **postprocess}}
    if outputs:
        changed["variants"] = [changed["variants"][0] | {"outputs": [one.model_dump() for one in outputs]}]
    return Manifest.model_validate(changed)


def test_a_head_that_is_not_known_is_refused(artifact: Artifact):
    with pytest.raises(ModelError, match="postprocess kind 'poetry' is not one of"):
        task_columns(of_head(artifact.manifest, "pose", "poetry"))


def test_every_kind_of_result_has_columns(artifact: Artifact):
    for kind, head in HEADS.items():
        assert task_columns(of_head(artifact.manifest, head.task, kind)), kind


SQUARE = np.array([[True, False], [True, True]])
BOX = {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}
NAMED = {"label_id": 2, "label": "c", "score": 0.75}


@pytest.mark.parametrize(
    ("task", "kind", "prediction", "row"),
    [
        (
            "classification",
            "classification",
            Classification(2, "c", 0.75, (LabelScore(2, "c", 0.75), LabelScore(0, "a", 0.25))),
            NAMED | {"top_k": [NAMED, {"label_id": 0, "label": "a", "score": 0.25}]},
        ),
        (
            "detection",
            "yolov8",
            Detections((Detection(2, "c", 0.75, 1, 2, 3, 4),)),
            {"detections": [NAMED | BOX]},
        ),
        ("detection", "detr", Detections(()), {"detections": []}),
        (
            "segmentation",
            "yolov8-seg",
            Instances((Instance(2, "c", 0.75, 1, 2, 3, 4, 1, 2, SQUARE),)),
            {"instances": [NAMED | BOX | {"left": 1, "top": 2, "mask": SQUARE}]},
        ),
        (
            "segmentation",
            "semantic",
            Segmentation(SQUARE.astype(np.uint8), (ClassPixels(1, "b", 3), ClassPixels(0, "a", 1))),
            {
                "mask": SQUARE.astype(np.uint8),
                "classes": [{"label_id": 1, "label": "b", "pixels": 3}, {"label_id": 0, "label": "a", "pixels": 1}],
            },
        ),
        (
            "segmentation",
            "saliency",
            Matte(SQUARE.astype(np.uint8), 0.25),
            {"mask": SQUARE.astype(np.uint8), "coverage": 0.25},
        ),
        (
            "pose",
            "movenet",
            Poses((Pose(0.5, 1, 2, 3, 4, (Keypoint(1.5, 2.5, 0.25),)),)),
            {"poses": [{"score": 0.5} | BOX | {"keypoints": [{"x": 1.5, "y": 2.5, "score": 0.25}]}]},
        ),
        ("embedding", "embedding", Embedding(np.array([0.6, 0.8, 0], np.float32)), {"embedding": [0.6, 0.8, 0.0]}),
    ],
)
def test_predictions_become_columns_of_the_declared_types(artifact: Artifact, task, kind, prediction, row):
    fields = task_columns(of_head(artifact.manifest, task, kind))
    arrays = prediction_arrays(fields, [prediction, prediction])
    table = pa.table(arrays, schema=pa.schema(fields))
    table.validate(full=True)
    first, second = table.to_pylist()
    assert first == second
    assert list(first) == list(row)
    for name, expected in row.items():
        assert_equal(first[name], expected)


def assert_equal(found: Any, expected: Any) -> None:
    """Compare, where a PNG is equal to the array that it shows."""
    match expected:
        case np.ndarray():
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found))), expected)
        case dict():
            assert list(found) == list(expected)
            for name, value in expected.items():
                assert_equal(found[name], value)
        case list():
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert_equal(one, other)
        case float():
            assert found == pytest.approx(expected)
        case _:
            assert found == expected


@pytest.mark.parametrize(
    ("shapes", "named", "expected"),
    [
        ([["N", 8]], {}, pa.list_(pa.float32(), 8)),
        ([["N", 8, 1, 1]], {}, pa.list_(pa.float32(), 8)),
        ([["N", 7, 4], ["N", 8]], {}, pa.list_(pa.float32(), 8)),
        ([["N", 7], ["N", 8]], {"embedding": "output1"}, pa.list_(pa.float32(), 8)),
        ([["N", "D"]], {}, pa.list_(pa.float32())),
    ],
)
def test_an_embedding_has_the_length_that_the_graph_declares(artifact: Artifact, shapes, named, expected):
    outputs = [Tensor(name=f"output{n}", dtype="float32", shape=tuple(shape)) for n, shape in enumerate(shapes)]
    manifest = of_head(artifact.manifest, "embedding", "embedding", *outputs, outputs=named)
    assert task_columns(manifest) == (pa.field("embedding", expected),)


def test_metadata_names_what_made_the_file(artifact: Artifact):
    found = file_metadata(artifact.manifest, artifact.digest, variant="fp32", provider="P", ort="1.2")
    assert found["vedette.model"] == "color"
    assert found["vedette.model_version"] == "1"
    assert found["vedette.manifest_sha256"] == artifact.digest
    assert (found["vedette.variant"], found["vedette.provider"], found["vedette.onnxruntime"]) == ("fp32", "P", "1.2")
    assert found["vedette.version"]
