"""The report of a whole job, for programs and for people."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from color_model import write_rows
from PIL import Image

from cluster import run_batch
from cluster.jobs.outputs import PAGE, REPORT
from cluster.report import glimpse
from cluster.report.glimpse import glimpses

VOID = {"br", "img", "meta"}


class Reader(HTMLParser):
    """Fails at tags that are not closed in order; keeps what it saw."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


def cut_jpeg(side: int = 64) -> bytes:
    """Return a JPEG that ends in the middle."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.fixture
def bad() -> dict[int, bytes | None]:
    return {2: b"", 30: b"<script>no image</script>", 31: None, 99: cut_jpeg(), **dict.fromkeys(range(50, 57), b"")}


@pytest.fixture
def report(options, bad, tmp_path: Path) -> tuple[dict, str]:
    write_rows(tmp_path / "in.parquet", 100, row_group=40, bad=bad)
    run_batch(options())
    out = tmp_path / "out"
    return json.loads((out / REPORT).read_bytes()), (out / PAGE).read_text()


def test_the_figures_are_of_the_whole_job(report, bad, options):
    found, _ = report
    assert found["rows"] == {"in": 100, "out": 100 - len(bad), "quarantined": len(bad), "filtered": 0}
    expected = {
        name: sum(1 for n in range(100) if n % 3 == color and n not in bad)
        for color, name in enumerate(("red", "green", "blue"))
    }
    (classes,) = found["classes"]
    assert (classes["counts"], classes["unit"]) == (expected, "images")
    assert sum(classes["scores"]) == 100 - len(bad)
    assert found["timeline"]["rows"] == 100
    assert sum(one["rows"] for one in found["stations"]) == 100
    assert len(found["slowest_shards"]) == found["shards"]["total"]
    assert set(found["stages"]) == {"read", "decode", "infer", "write"}


def test_lineage_names_model_input_options_and_versions(report, tmp_path):
    lineage = report[0]["lineage"]
    record = json.loads((tmp_path / "out" / "_job.json").read_bytes())
    assert lineage["models"] == record["models"]
    (file,) = lineage["files"]
    assert [file["etag"], file["rows"]] == record["files"][file["path"]]
    assert lineage["options"] == record["options"]
    assert lineage["versions"]["onnxruntime"]


def test_bad_rows_are_shown_by_reason_and_only_what_can_be_seen(report):
    examples = report[0]["bad_row_examples"]
    by_reason = {reason: [one for one in examples if one["reason"] == reason] for reason in report[0]["bad_rows"]}
    assert {reason: len(rows) for reason, rows in by_reason.items()} == {
        "empty": 4,
        "missing": 1,
        "not_an_image": 1,
        "truncated": 1,
    }
    assert [one["reason"] for one in examples if one["visible"]] == ["truncated"]
    assert by_reason["truncated"][0]["source_row"] == 99


def test_the_page_is_well_formed_and_loads_nothing(report):
    read = Reader(report[1])
    assert {tag for tag, _ in read.seen}.isdisjoint({"script", "link", "iframe", "object"})
    sources = [value or "" for _, attributes in read.seen for name, value in attributes.items() if name == "src"]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/jpeg;base64,")
    assert "url(" not in report[1]
    assert [tag for tag, _ in read.seen].count("h1") == 1
    for title in ("Throughput", "Time by stage", "Classes", "Bad rows", "Slowest shards", "Lineage"):
        assert title in read.words


def test_a_report_of_nothing_at_all_can_be_made(options, tmp_path):
    write_rows(tmp_path / "in.parquet", 5)
    run_batch(options(filter="number < 0"))
    found = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert [one["counts"] for one in found["classes"]] == [{}]
    Reader((tmp_path / "out" / PAGE).read_text())


def test_a_resumed_job_reports_all_of_it_again(report, options, tmp_path):
    for name in ("_SUCCESS", "_manifest.json", REPORT):
        (tmp_path / "out" / name).unlink()
    run_batch(options())
    again = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert again["processed_rows"] == 0
    assert again["classes"] == report[0]["classes"]
    assert again["timeline"] == report[0]["timeline"]


def test_a_picture_that_kills_the_looker_hides_those_after_it_only(monkeypatch):
    jpeg = io.BytesIO()
    Image.new("RGB", (900, 30), "red").save(jpeg, "JPEG")
    seen = glimpses([jpeg.getvalue(), b"no image", cut_jpeg()])
    assert [bool(one) for one in seen] == [True, False, True]
    assert Image.open(io.BytesIO(seen[0])).size == (240, 8)
    monkeypatch.setattr(glimpse, "SECONDS", 0.001)
    assert glimpses([jpeg.getvalue()]) == [b""]
    assert glimpses([]) == []
