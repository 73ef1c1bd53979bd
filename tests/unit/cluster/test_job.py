"""Whole jobs, in this process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from color_model import picture, write_artifact, write_rows

from cluster import read_output, run_batch
from cluster.cli import batch
from cluster.errors import (
    FilterError,
    InputChangedError,
    OtherJobError,
    OutputError,
    SchemaError,
    ShardError,
    StoppedError,
    TooManyBadRowsError,
    WorkersError,
)
from cluster.estimate import dry_run
from cluster.input.sampling import Sample
from cluster.planning import plan_job
from cluster.pool.tasks import Failure, Kind
from cluster.worker.shard_worker import ShardWorker
from runtime.errors import DatasetError, ModelError, ModelNotFoundError, UsageError
from runtime.images import read

BAD = {2: b"", 30: b"no image at all", 31: None, 99: b"\x89PNG broken"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.parquet", 100, row_group=40)


@pytest.fixture
def bad_rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.parquet", 100, row_group=40, bad=BAD)


def test_every_row_has_the_right_answer_and_the_kept_columns(options, rows):
    summary = run_batch(options(keep=("number", "name=truth")))
    table = read_output(options().output)
    assert table.column("number").to_pylist() == list(range(100))
    assert table.column("label").to_pylist() == table.column("truth").to_pylist()
    assert table.schema.field("number").type == pa.int32()
    assert summary.rows == {"in": 100, "out": 100, "quarantined": 0, "filtered": 0}
    assert summary.shards == {"total": 5, "committed": 5, "elsewhere": 0, "resumed": 0}
    assert summary.processed_rows == 100
    assert set(summary.seconds) == {"read", "decode", "infer", "write"}
    assert summary.ran_on[0].startswith("fp32 on CPUExecutionProvider")
    assert summary.decoders == {read(picture(0)).decoder: 100}
    (setting,) = summary.settings
    assert re.fullmatch(r"batches of \d+, threads session=1 decode\+infer=2", setting)
    assert setting in summary.text()


def test_kept_images_come_out_as_they_went_in(options, rows):
    run_batch(options(keep=("image=picture",)))
    assert read_output(options().output).column("picture").equals(pq.read_table(rows).column("image"))


def test_bad_rows_go_to_quarantine_and_the_job_goes_on(options, bad_rows):
    summary = run_batch(options())
    assert summary.rows == {"in": 100, "out": 96, "quarantined": 4, "filtered": 0}
    assert summary.bad_rows == {"empty": 1, "missing": 1, "not_an_image": 1, "truncated": 1}
    manifest = json.loads((Path(summary.output) / "_manifest.json").read_bytes())
    found = [row for f in manifest["quarantine"] for row in pq.read_table(Path(summary.output) / f["path"]).to_pylist()]
    assert {row["source_row"]: row["reason"] for row in found} == {
        2: "empty",
        30: "not_an_image",
        31: "missing",
        99: "truncated",
    }
    assert {row["source_file"] for row in found} == {str(bad_rows)}


def test_filtered_rows_are_counted_and_their_images_not_looked_at(options, bad_rows):
    summary = run_batch(options(filter="number >= 40 and name == 'red'", keep=("number",)))
    wanted = [n for n in range(100) if n >= 40 and n % 3 == 0 and n not in BAD]
    assert read_output(options().output).column("number").to_pylist() == wanted
    assert summary.rows == {"in": 100, "out": len(wanted), "quarantined": 1, "filtered": 99 - len(wanted)}


def test_many_small_files_share_shards_and_a_job_goes_on_in_the_middle_of_them(options, tmp_path, monkeypatch):
    for index in range(20):
        write_rows(tmp_path / "in" / f"{index:02d}.parquet", 5, first=5 * index)
    given = {"input": str(tmp_path / "in"), "keep": ("number",), "workers": "1", "shard_rows": 22}
    job = plan_job(options(**given))
    assert [len(shard.ranges) for shard in job.shards] == [4] * 5
    run = ShardWorker.run

    def failing(self, shard, **how):
        if shard.id == job.shards[3].id:
            raise InputChangedError("the disk was pulled out")
        return run(self, shard, **how)

    monkeypatch.setattr(ShardWorker, "run", failing)
    with pytest.raises(ShardError, match="pulled out"):
        run_batch(options(**given))
    monkeypatch.undo()
    assert run_batch(options(**given)).shards["resumed"] >= 1
    table = read_output(options().output)
    assert table.column("number").to_pylist() == list(range(100))
    assert table.column("source_row").to_pylist() == [number % 5 for number in range(100)]
    assert table.column("source_file").to_pylist() == [
        str(tmp_path / "in" / f"{number // 5:02d}.parquet") for number in range(100)
    ]
    assert table.column("label_id").to_pylist() == [number % 3 for number in range(100)]


def test_sample_and_limit_choose_rows_and_are_part_of_the_job(options, rows):
    summary = run_batch(options(sample=0.5, seed=3, limit=20, keep=("number",)))
    taken = read_output(options().output).column("number").to_pylist()
    assert taken == Sample(fraction=0.5, seed=3).rows(str(rows), 0, 100).tolist()[:20]
    assert summary.rows["in"] == summary.rows["out"] + summary.rows["filtered"] == taken[-1] + 1
    for other in ({"seed": 4}, {"sample": 0.6}, {"limit": 21}):
        with pytest.raises(OtherJobError, match=r"sample|limit|changed"):
            run_batch(options(**{"sample": 0.5, "seed": 3, "limit": 20, **other}))


def test_an_output_without_any_row_can_be_read(options, rows):
    run_batch(options(filter="number < 0"))
    assert read_output(options().output).num_rows == 0


def test_a_finished_job_does_nothing_again(options, rows):
    run_batch(options())
    before = sorted(path.stat().st_mtime_ns for path in Path(options().output).rglob("*"))
    summary = run_batch(options(workers="1", batch_size=3))
    assert summary.shards == {"total": 5, "committed": 0, "elsewhere": 0, "resumed": 5}
    assert (summary.processed_rows, summary.workers) == (0, 0)
    assert before == sorted(path.stat().st_mtime_ns for path in Path(options().output).rglob("*"))


def test_a_job_that_failed_goes_on_with_what_is_missing(options, rows, monkeypatch):
    run = ShardWorker.run

    def failing(self, shard, **how):
        if shard.ranges[0].start >= 60:
            raise InputChangedError("the disk was pulled out")
        return run(self, shard, **how)

    monkeypatch.setattr(ShardWorker, "run", failing)
    with pytest.raises(ShardError, match="pulled out"):
        run_batch(options(workers="1"))
    monkeypatch.undo()
    with pytest.raises(OutputError, match=r"not finished: [1-4] of 5 shards"):
        read_output(options().output)
    summary = run_batch(options(keep=()))
    assert summary.shards["resumed"] >= 1
    assert summary.shards["resumed"] + summary.shards["committed"] == 5
    assert read_output(options().output).column("source_row").to_pylist() == list(range(100))


def test_too_many_bad_rows_end_the_job_until_the_bound_is_larger(options, bad_rows):
    with pytest.raises(TooManyBadRowsError, match=r"more than --max-bad-rows 1; .*quarantine"):
        run_batch(options(max_bad_rows=1))
    with pytest.raises(TooManyBadRowsError):
        run_batch(options(max_bad_rows=1))
    assert not (Path(options().output) / "_SUCCESS").exists()
    summary = run_batch(options(max_bad_rows=4))
    assert summary.rows["quarantined"] == 4
    assert summary.shards["resumed"] > 0


def test_two_drivers_of_one_job_do_each_row_once(options, rows):
    summaries = []
    drivers = [threading.Thread(target=lambda: summaries.append(run_batch(options()))) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert [summary.rows["out"] for summary in summaries] == [100, 100]
    assert sum(summary.shards["committed"] for summary in summaries) == 5
    assert read_output(options().output).column("source_row").to_pylist() == list(range(100))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"keep": ("number",)}, "keep"),
        ({"filter": "number > 3"}, "filter"),
        ({"shard_rows": 50}, "shard rows"),
    ],
)
def test_an_output_of_other_options_is_refused(options, rows, changes, named):
    run_batch(options())
    with pytest.raises(OtherJobError, match=named):
        run_batch(options(**changes))


def test_an_output_of_another_model_or_of_changed_input_is_refused(options, rows, tmp_path):
    run_batch(options())
    with pytest.raises(OtherJobError, match=r"model color@1 \(now color@2\)"):
        run_batch(options(models=(str(write_artifact(tmp_path / "v2", version=2).root),)))
    os.utime(rows, (1, 1))
    with pytest.raises(OtherJobError, match=r"1 input file\(s\) changed, the first is .*in\.parquet"):
        run_batch(options())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"keep": ("nope",)}, SchemaError),
        ({"keep": ("name=label",)}, SchemaError),
        ({"image_column": "name2"}, SchemaError),
        ({"filter": "number >"}, FilterError),
        ({"workers": "many"}, WorkersError),
        ({"workers": "cuda=1,cpu=2"}, WorkersError),
        ({"input": "/does/not/exist"}, DatasetError),
        ({"models": ("unknown",)}, ModelNotFoundError),
        ({"output": "ftp://host/out"}, UsageError),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(options, rows, tmp_path, changes, error):
    with pytest.raises(error):
        run_batch(options(**changes))
    assert not (tmp_path / "out").exists()


def test_an_output_inside_the_input_is_refused(options, tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", 3)
    with pytest.raises(OutputError, match="lies inside the input"):
        plan_job(options(input=str(tmp_path / "in"), output=str(tmp_path / "in" / "out")))


def test_a_dry_run_runs_rows_and_writes_nothing(options, rows):
    plan = dry_run(plan_job(options(keep=("name",), filter="number >= 30")), None)
    assert not Path(options().output).exists()
    assert (plan["rows"], plan["shards"], plan["committed"]) == (100, 5, 0)
    assert plan["columns"]["name"] == "string"
    assert plan["provider"] == "CPUExecutionProvider"
    assert any("CPUExecutionProvider" in name for name in plan["providers"])
    assert plan["probe"]["rows"] == 100
    assert (plan["estimate"]["rows"], plan["estimate"]["cost"]) == (100, None)
    assert plan["estimate"]["seconds"] > 0


def test_a_dry_run_of_a_finished_job_runs_nothing(options, rows, monkeypatch):
    run_batch(options())
    monkeypatch.setattr(ShardWorker, "probe", None)
    plan = dry_run(plan_job(options()), None)
    assert plan["committed"] == plan["shards"]
    assert "estimate" not in plan


def test_a_dry_run_says_that_a_file_is_damaged(options, rows):
    job = plan_job(options())
    os.utime(rows, (1, 1))
    with pytest.raises(InputChangedError):
        dry_run(job, None)


def test_an_error_that_may_pass_is_tried_again(options, rows, monkeypatch):
    run, failed = ShardWorker.run, set()

    def flaky(self, shard, **how):
        if shard.id not in failed:
            failed.add(shard.id)
            raise ConnectionError("try again")
        return run(self, shard, **how)

    monkeypatch.setattr(ShardWorker, "run", flaky)
    assert run_batch(options(max_retries=1)).rows["out"] == 100
    failed.clear()
    shutil.rmtree(options().output)
    with pytest.raises(ShardError, match="failed 1 times; the last time: ConnectionError: try again"):
        run_batch(options(max_retries=0))


def test_a_signal_ends_the_job_in_one_sentence(options, rows, monkeypatch):
    run = ShardWorker.run

    def run_then_interrupt(self, shard, **how):
        commit = run(self, shard)
        os.kill(os.getpid(), signal.SIGTERM)
        return commit

    monkeypatch.setattr(ShardWorker, "run", run_then_interrupt)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match=r"stopped by SIGTERM: \d of 5 shards are committed"):
        run_batch(options(workers="1"))
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert run_batch(options()).rows["out"] == 100


def test_failures_are_one_line_and_a_full_disk_is_hopeless():
    assert Failure.of(OSError(28, "No space left on device", "/out")) == Failure(
        text="no space left on device: /out", kind=Kind.HOPELESS
    )
    assert Failure.of(ValueError("a\nb")) == Failure(text="ValueError: a b")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.lib.ArrowMemoryError("malloc of size 9 failed"),
        ModelError("BFCArena: Failed to allocate memory for requested buffer of size 9"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_all_ways_to_run_out_of_memory_are_told(error):
    assert Failure.of(error).kind is Kind.MEMORY


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(batch, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_line_runs_and_reads(options, rows, artifact, tmp_path):
    out = str(tmp_path / "out")
    call = (
        "run",
        "--model",
        str(artifact.root),
        "--input",
        str(rows),
        "--output",
        out,
        "--local",
        "--keep",
        "number,name",
    )
    plan = json.loads(invoke(*call, "--dry-run", "--json", "--cost-per-hour", "3600"))
    assert (plan["rows"], plan["estimate"]["rows"]) == (100, 100)
    assert plan["estimate"]["cost"] > 0
    assert plan["estimate"]["cost"] == pytest.approx(plan["estimate"]["worker_hours"] * 3600, abs=0.01)
    assert re.search(r"output column.*execution provider.*rows_per_second", invoke(*call, "--dry-run"), re.DOTALL)
    assert not Path(out).exists()
    summary = json.loads(invoke(*call, "--json"))
    assert (summary["rows"]["out"], summary["model"]) == (100, "color@1")
    assert "all was there" in invoke(*call)
    assert "and 90 more" in invoke("read", out)
    listed = json.loads(invoke("read", out, "--json"))
    assert [(row["number"], row["label"]) for row in listed] == [
        (n, ("red", "green", "blue")[n % 3]) for n in range(100)
    ]
    assert json.loads(invoke("read", out, "--out", str(tmp_path / "all.parquet"), "--json"))["rows"] == 100
    assert pq.read_table(tmp_path / "all.parquet").equals(read_output(out))


def test_reading_what_is_no_output_says_so(tmp_path):
    with pytest.raises(OutputError, match="no output of a batch job"):
        read_output(tmp_path)


def test_digits_and_their_labels(options, artifact, tmp_path):
    summary = run_batch(options(input="digits#test", keep=("label=digit",), filter="label < 3"))
    table = read_output(options().output)
    assert set(table.column("digit").to_pylist()) == {0, 1, 2}
    assert summary.rows["out"] == table.num_rows == summary.rows["in"] - summary.rows["filtered"]
    assert set(table.column("source_file").to_pylist()) == {"digits#test"}
