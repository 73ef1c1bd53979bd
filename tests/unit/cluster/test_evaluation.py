"""How right answers are on the labels that the input has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from color_model import picture
from detection_heads import manifest_of

from cluster import evaluation, read_output, run_batch
from cluster.errors import SchemaError
from cluster.evaluation import Evaluation, evaluate
from cluster.input import labels
from cluster.input.labels import Holds, LabelColumn
from cluster.output.commit import OutputDirectory
from cluster.output.records import OutputManifest, WrittenFile
from runtime.evaluation.metrics import METRICS
from runtime.manifest import Manifest
from runtime.tasks import head_of

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
    (judged,) = run_batch(options(evaluate=column)).evaluations
    assert (judged.judged, judged.unlabelled) == (5, 1)
    assert judged.metrics == pytest.approx(
        {"top1": 4 / 5, "macro_f1": (2 / 3 + 4 / 5 + 1) / 3, "macro_recall": (1 + 2 / 3 + 1) / 3}
    )
    kept = "input_label" if column == "label" else column
    assert kept in read_output(tmp_path / "out").column_names
    assert judged.classes[0] == {
        "label": "red",
        "precision": 0.5,
        "recall": 1,
        "f1": pytest.approx(2 / 3),
        "support": 1,
    }
    assert judged.notes == ()
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["evaluations"][0]["metrics"] == judged.metrics
    assert "top-1" in (tmp_path / "out" / "report.html").read_text()


def test_a_finished_job_that_kept_its_labels_is_judged_without_running_again(options, rows):
    assert run_batch(options(keep=("name=truth",))).evaluations == ()
    again = run_batch(options(keep=("name=truth",), evaluate="name"))
    assert again.processed_rows == 0
    assert again.evaluations[0].metrics["top1"] == pytest.approx(4 / 5)
    assert "evaluation" in again.text()


@pytest.mark.parametrize(("column", "said"), [("wrong", "'mauve' is no class"), ("price", "expected class names")])
def test_labels_that_are_no_classes_are_refused(options, rows, column, said):
    with pytest.raises(SchemaError, match=said):
        run_batch(options(evaluate=column))
    assert not Path(options().output).exists()


def test_indices_mean_the_names_that_the_metadata_has(options, rows):
    table = pq.read_table(rows).select(["image", "index"])
    features = {"index": {"names": ["Blue", "red", "GREEN"], "_type": "ClassLabel"}}
    table = table.set_column(1, "index", pa.array([None if one is None else (one + 1) % 3 for one in TRUTH]))
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), rows)
    assert run_batch(options(evaluate="index")).evaluations[0].metrics["top1"] == pytest.approx(4 / 5)


def test_a_label_that_nobody_looked_at_is_an_error_after_the_job_which_is_whole(options, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(labels.LOOKED_AT, "text", 3)
    table = pq.read_table(rows)
    names = pa.array(["red", "green", "blue", "red", "green", "mauve"])
    pq.write_table(table.set_column(table.schema.get_field_index("name"), "name", names), rows)
    with pytest.raises(SchemaError, match=r"--evaluate name: 'mauve' is no class of the model"):
        run_batch(options(evaluate="name"))
    assert read_output(tmp_path / "out").num_rows == 6
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["evaluations"] == []
    assert run_batch(options(keep=("name",))).processed_rows == 0


# ------------------------------------------------------------------- outputs that no job wrote


def judged(
    root: Path, model: Manifest, holds: Holds, files: Sequence[dict[str, Any]], prefix: str = "", **more: Any
) -> Evaluation:
    """Judge an output of *files*, columns by name; the labels are in ``known``."""
    output, written = OutputDirectory.open(root), []
    (root / "data").mkdir(parents=True)
    for number, columns in enumerate(files):
        table = pa.table(columns)
        origin = {"source_file": ["in.parquet"] * table.num_rows, "source_row": range(table.num_rows)}
        table = pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **origin})
        pq.write_table(table, root / "data" / f"{number}.parquet")
        written.append(WrittenFile(path=f"data/{number}.parquet", rows=table.num_rows, size=0))
    counts = {"in": 0, "out": 0, "quarantined": 0, "filtered": 0}
    manifest = OutputManifest(
        models={"m@1": ""}, input="in", rows=counts, reasons={}, data=tuple(written), quarantine=()
    )
    truth = METRICS[head_of(model).result].truth
    column = LabelColumn(column="known", holds=holds, truth=truth, label_names=more.get("names"), uri="in")
    return evaluate(output, manifest, column, model, name="known", prefix=prefix)


SEVEN = tuple("abcdefg")


def top(*ids: int) -> list[dict[str, Any]]:
    return [{"label_id": one, "label": SEVEN[one], "score": 0.5} for one in ids]


@pytest.mark.parametrize(("top_k", "expected"), [(6, 4 / 5), (3, None)])
def test_top_5_is_given_where_the_answers_name_five(top_k: int, expected: float | None, tmp_path: Path) -> None:
    model = manifest_of("classification", SEVEN, task="classification", top_k=top_k)
    best = [top(0, 1, 2, 3, 4, 5), top(0, 1), top(3, 2, 1, 0, 4, 5), top(6, 5), top(1, 2)]
    answers = [one[0]["label_id"] for one in best]
    files = [
        {"known": known, "a_label_id": answers[part], "a_top_k": best[part]}
        for part, known in ((slice(0, 3), ["e", "b", "f"]), (slice(3, 5), ["f", "b"]))
    ]
    found = judged(tmp_path, model, "text", files, prefix="a_")
    assert found.metrics.get("top5") == expected
    assert found.metrics["top1"] == 1 / 5
    assert [one["label"] for one in found.classes] == ["a", "b", "d", "e", "f", "g"]
    assert next(one for one in found.classes if one["label"] == "e")["precision"] is None


def test_without_any_label_nothing_is_measured(tmp_path: Path) -> None:
    model = manifest_of("classification", SEVEN, task="classification")
    nothing = pa.array([None, None], pa.string())
    found = judged(
        tmp_path / "classes", model, "text", [{"known": nothing, "label_id": [1, 2], "top_k": [top(1), top(2)]}]
    )
    assert (found.judged, found.unlabelled, found.metrics, found.classes) == (0, 2, {}, ())
    vectors = manifest_of("embedding", task="embedding")
    found = judged(tmp_path / "vectors", vectors, "text", [{"known": nothing, "embedding": [[1.0, 0.0]] * 2}])
    assert (found.judged, found.unlabelled, found.metrics) == (0, 2, {})


def box(label: int, *corners: float, score: float = 0.9) -> dict[str, Any]:
    return {"label_id": label, "label": "", "score": score} | dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))


def wanted(category: int, *box: float) -> dict[str, Any]:
    return {"bbox": list(box), "category": category}


def test_boxes_are_judged_where_there_are_labels_under_any_prefix(tmp_path: Path) -> None:
    model = manifest_of("boxes", ("cat", "dog"), score_threshold=0.5)
    cat, surer, dog = ([box(label, 0, 0, 10, 10, score=score)] for label, score in ((0, 0.9), (0, 0.95), (1, 0.9)))
    files = [
        {"known": [[wanted(1, 0, 0, 10, 10)], None], "m_detections": [cat, cat]},
        {"known": [[wanted(0, 0, 0, 10, 10)], []], "m_detections": [dog, surer]},
    ]
    found = judged(tmp_path, model, "objects", files, prefix="m_", names=("dog", "cat"))
    assert (found.judged, found.unlabelled) == (3, 1)
    assert found.metrics["map50"] == pytest.approx((0.5 + 1) / 2)  # of cats the surest is none
    assert "scores from 0.5 on" in found.notes[0]


def test_data_in_which_there_is_nothing_to_find_is_said(tmp_path: Path) -> None:
    model = manifest_of("boxes", ("cat", "dog"), score_threshold=0.001)
    empty = pa.array([[]], pa.list_(pa.struct([("bbox", pa.list_(pa.float64())), ("category", pa.int64())])))
    found = judged(tmp_path, model, "objects", [{"known": empty, "detections": [[box(0, 0, 0, 1, 1)]]}])
    assert (found.judged, found.metrics) == (1, {})
    assert found.notes == ("the labels have nothing that mAP 50-95 could be measured by",)


@pytest.mark.parametrize("kind", ["int", "text", "dictionary"])
def test_of_many_vectors_the_neighbours_of_some_are_looked_for_among_all(kind, tmp_path: Path, monkeypatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = random.integers(0, 4, 60)
    known = [None if n % 7 == 0 else int(names[n]) for n in range(60)]
    values = pa.array(known if kind == "int" else [None if one is None else f"who {one}" for one in known])
    values = values.dictionary_encode() if kind == "dictionary" else values
    files = [
        {"known": values.slice(start, 25), "embedding": vectors[start : start + 25].tolist()} for start in (0, 25, 50)
    ]
    labelled = np.array([one is not None for one in known])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    cosines[:, ~labelled] = -2
    right = names[cosines.argmax(axis=1)] == names
    model, holds = manifest_of("embedding", task="embedding"), "label" if kind == "int" else "text"
    whole = judged(tmp_path / "whole", model, holds, files)
    assert whole.metrics == {"recall1": pytest.approx(right[labelled].mean())}
    assert (whole.judged, whole.unlabelled, whole.notes) == (51, 9, ())
    monkeypatch.setattr(evaluation, "PAIRS", 60 * 20)
    monkeypatch.setattr(evaluation, "LEAST_ASKED", 10)
    some = judged(tmp_path / "some", model, holds, files)
    (note,) = some.notes
    asked = int(note.split()[2])
    assert 10 <= asked <= 20
    assert note.endswith("drawn by chance, among all")
    assert some.metrics["recall1"] * asked == pytest.approx(round(some.metrics["recall1"] * asked))
    assert some == judged(tmp_path / "again", model, holds, files)


def test_run_lengths_of_a_smaller_picture_than_an_answer_are_an_error(tmp_path: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ones((10, 10), np.bool_)).save(buffer, "PNG")
    answer = box(0, 0, 0, 10, 10) | {"left": 5, "top": 0, "mask": buffer.getvalue()}
    known = wanted(0, 0, 0, 4, 4) | {"rle": {"size": [12, 12], "counts": "`3"}}
    model = manifest_of("boxes-seg", ("cat",), task="segmentation")
    with pytest.raises(
        SchemaError, match=r"--evaluate known: .*\(12, 12\) \(width, height\); another one .* \(15, 10\)"
    ):
        judged(tmp_path, model, "objects", [{"known": [[known]], "instances": [[answer]]}])
