"""Several models in one pass: whose columns are whose, and that each answers as it would alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from color_model import write_artifact, write_rows

from cluster import read_output, run_batch
from cluster.cli import batch
from cluster.errors import OtherJobError
from cluster.models import joined, named
from cluster.planning import BatchOptions, plan_job
from runtime.artifact import Artifact
from runtime.errors import UsageError

ROWS = 60
BAD = {7: b"no picture", 31: None}


@pytest.fixture
def second(tmp_path: Path) -> Artifact:
    """Another version of the model, whose scores are twice as high."""
    return write_artifact(tmp_path / "second", version=2)


@pytest.fixture
def both(options: Callable[..., BatchOptions], artifact: Artifact, second: Artifact, tmp_path: Path):
    """Make the options of a small job with both models."""
    write_rows(tmp_path / "in.parquet", ROWS, bad=BAD)
    models = (str(artifact.root), str(second.root))
    return lambda **changes: options(models=models, keep=("number", "name"), **changes)


def test_one_model_has_no_prefix_and_several_have_their_names(artifact, second):
    assert [model.prefix for model in named([artifact])] == [""]
    assert [model.prefix for model in named([artifact, second])] == ["color_1_", "color_2_"]


def test_the_same_model_twice_is_refused(artifact):
    with pytest.raises(UsageError, match="color@1, color@1: their columns would all begin with 'color_1_'"):
        named([artifact, artifact])


def test_what_models_say_alike_stands_once():
    assert joined([{"a": "1", "b": "x"}, {"a": "1", "b": "y", "c": "z"}]) == {"a": "1", "b": "x, y", "c": "z"}


def test_each_model_answers_as_it_would_alone_and_pictures_are_decoded_once(both, options, second, tmp_path):
    summary = run_batch(both())
    assert summary.rows == {"in": ROWS, "out": ROWS - len(BAD), "quarantined": len(BAD), "filtered": 0}
    assert sum(summary.decoders.values()) == ROWS - len(BAD)
    assert summary.model == "color@1, color@2"
    together = read_output(tmp_path / "out").to_pylist()
    for prefix, model in (("color_1_", options().models[0]), ("color_2_", str(second.root))):
        alone = tmp_path / f"alone-{prefix}"
        run_batch(options(models=(model,), keep=("number", "name"), output=str(alone)))
        for row, expected in zip(together, read_output(alone).to_pylist(), strict=True):
            shared = {name: row[name] for name in ("number", "name", "source_file", "source_row")}
            answers = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
            assert {**shared, **answers} == expected


def test_files_say_which_models_made_them(both, tmp_path):
    run_batch(both())
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_bytes())
    assert list(manifest["models"]) == ["color@1", "color@2"]
    metadata = pq.read_schema(tmp_path / "out" / manifest["data"][0]["path"]).metadata
    assert (metadata[b"vedette.model"], metadata[b"vedette.model_version"]) == (b"color", b"1, 2")


def test_the_same_models_in_another_order_are_another_job(both, options, second):
    run_batch(both())
    turned = both().models[::-1]
    with pytest.raises(OtherJobError, match=r"\(now color@2, color@1\)"):
        plan_job(options(models=turned, keep=("number", "name")))
    assert run_batch(both()).processed_rows == 0


def test_every_model_is_judged_and_counted(both, tmp_path):
    summary = run_batch(both(evaluate="name"))
    assert [(one.model, one.metrics["top1"]) for one in summary.evaluations] == [("color@1", 1.0), ("color@2", 1.0)]
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert [one["model"] for one in report["classes"]] == ["color@1", "color@2"]
    assert report["classes"][0]["counts"] == report["classes"][1]["counts"]
    assert "color@2: " in summary.text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h3>color@1</h3>" in page
    assert "<h3>color@2</h3>" in page


def test_the_command_takes_the_option_more_than_once(both, tmp_path):
    given = both()
    arguments = [
        "run",
        *(f"--model={model}" for model in given.models),
        "--input",
        given.input,
        "--output",
        given.output,
    ]
    arguments += ["--local", "--provider", "cpu", "--json"]
    plan = CliRunner().invoke(batch, [*arguments, "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert list(json.loads(plan.output)["models"]) == ["color@1", "color@2"]
    done = CliRunner().invoke(batch, arguments)
    assert done.exit_code == 0, done.output
    assert {"color_1_label", "color_2_top_k"} <= set(read_output(tmp_path / "out").column_names)
