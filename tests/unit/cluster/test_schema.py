from __future__ import annotations

import pyarrow as pa
import pytest

from cluster.errors import SchemaError
from cluster.schema import Kept, file_metadata, kept_fields, named_apart, output_schema, task_columns
from runtime.artifact import Artifact
from runtime.tasks import Classification, LabelScore

INPUT = pa.schema(
    [
        pa.field("id", pa.int16(), nullable=False, metadata={"a": "b"}),
        ("label", pa.int64()),
        ("x", pa.int8()),
        ("x", pa.int8()),
    ]
)


def test_the_output_has_kept_columns_then_the_source_then_the_answer():
    fields = kept_fields(INPUT, [Kept.parse("id"), Kept.parse("label=truth")])
    schema = output_schema("classification", fields)
    assert schema.names == ["id", "truth", "source_file", "source_row", "label_id", "label", "score", "top_k"]
    assert schema.field("id") == pa.field("id", pa.int16(), nullable=False)
    assert schema.field("id").metadata is None


def test_a_column_called_like_one_of_the_output_is_kept_under_another_name():
    kept = named_apart([Kept.parse("label"), Kept.parse("id"), Kept.parse("x=truth")], "classification")
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
def test_columns_that_clash_or_are_missing_are_refused(keep, text):
    with pytest.raises(SchemaError, match=text):
        output_schema("classification", kept_fields(INPUT, [Kept.parse(one) for one in keep]))


def test_a_task_that_batch_jobs_do_not_know_is_refused():
    with pytest.raises(SchemaError, match="classification"):
        task_columns("pose")


def test_predictions_become_columns_of_the_declared_types():
    top = (LabelScore(2, "c", 0.75), LabelScore(0, "a", 0.25))
    columns = task_columns("classification")
    arrays = columns.arrays([Classification(2, "c", 0.75, top)])
    table = pa.table(arrays, schema=pa.schema(columns.fields))
    assert table.to_pylist() == [
        {
            "label_id": 2,
            "label": "c",
            "score": 0.75,
            "top_k": [{"label_id": 2, "label": "c", "score": 0.75}, {"label_id": 0, "label": "a", "score": 0.25}],
        }
    ]


def test_metadata_names_what_made_the_file(artifact: Artifact):
    found = file_metadata(artifact.manifest, artifact.digest, variant="fp32", provider="P", ort="1.2")
    assert found["vedette.model"] == "color"
    assert found["vedette.model_version"] == "1"
    assert found["vedette.manifest_sha256"] == artifact.digest
    assert (found["vedette.variant"], found["vedette.provider"], found["vedette.onnxruntime"]) == ("fp32", "P", "1.2")
    assert found["vedette.version"]
