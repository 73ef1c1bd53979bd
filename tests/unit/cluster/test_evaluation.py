"""How right a classifier is on the labels that the input has."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from color_model import picture

from cluster import read_output, run_batch
from cluster.errors import SchemaError

TRUTH = [0, 1, 2, 1, 1, None]  # of pictures whose colors are 0, 1, 2, 0, 1, 2: one of five is wrong
NAMES = ("red", "green", "blue")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    names = [None if one is None else NAMES[one] for one in TRUTH]
    columns = {
        "image": pa.array([picture(n % 3) for n in range(6)], pa.binary()),
        "index": pa.array(TRUTH, pa.int16()),
        "name": pa.array(names),
        "label": pa.array(names).dictionary_encode(),
        "wrong": pa.array(["mauve"] * 6),
        "price": pa.array([1.0] * 6),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


@pytest.mark.parametrize("column", ["index", "name", "label"])
def test_labels_by_index_and_by_name_judge_alike(options, rows, tmp_path, column):
    judged = run_batch(options(evaluate=column)).evaluation
    assert (judged.judged, judged.unlabelled) == (5, 1)
    assert judged.metrics == pytest.approx(
        {"top1": 4 / 5, "macro_f1": (2 / 3 + 4 / 5 + 1) / 3, "macro_recall": (1 + 2 / 3 + 1) / 3}
    )
    kept = "input_label" if column == "label" else column
    assert kept in read_output(tmp_path / "out").column_names
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["evaluation"]["metrics"] == judged.metrics
    assert "top-1" in (tmp_path / "out" / "report.html").read_text()


def test_a_finished_job_that_kept_its_labels_is_judged_without_running_again(options, rows):
    assert run_batch(options(keep=("name=truth",))).evaluation is None
    again = run_batch(options(keep=("name=truth",), evaluate="name"))
    assert again.processed_rows == 0
    assert again.evaluation.metrics["top1"] == pytest.approx(4 / 5)
    assert "evaluation" in again.text()


@pytest.mark.parametrize(("column", "said"), [("wrong", "'mauve' is no class"), ("price", "expected class names")])
def test_labels_that_are_no_classes_are_refused(options, rows, column, said):
    with pytest.raises(SchemaError, match=said):
        run_batch(options(evaluate=column))
