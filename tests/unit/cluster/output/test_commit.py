"""The commit protocol: one winner, whole files, balanced rows, and nothing lost at any point of a crash."""

from __future__ import annotations

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import CommitLostError, OtherJobError, OutputError
from cluster.output.commit import Attempt, BadRow, OutputDirectory
from cluster.output.records import Commit, JobRecord, OutputManifest
from cluster.plan import InputFile, RowGroup, Shard, ShardLimits, plan_shards
from cluster.storage import directory as directory_module

SCHEMA = pa.schema([("row", pa.int64())])


def plan(rows: int = 10, shard_rows: int = 5) -> tuple[Shard, ...]:
    file = InputFile(path="/in", etag="1", groups=(RowGroup(rows, 0),))
    return plan_shards([file], ShardLimits(rows=shard_rows), reader="r")


def record(rows: int = 10, shards: int = 2, **changes) -> JobRecord:
    given = {
        "models": {"m@1": "aa"},
        "input": "/in",
        "files": {"/in": ("1", rows)},
        "options": {"keep": []},
        "shards": shards,
    }
    return JobRecord(**{**given, **changes})


def root_of(output: OutputDirectory) -> Path:
    return Path(output.uri)


def do(output: OutputDirectory, shard: Shard, *, bad: int = 0, filtered: int = 0) -> Commit:
    with output.attempt(shard, SCHEMA) as attempt:
        attempt.write(pa.table({"row": range(shard.ranges[0].start + bad + filtered, shard.ranges[0].stop)}))
        attempt.quarantine([BadRow("/in", shard.ranges[0].start + n, "empty", "no bytes") for n in range(bad)])
        attempt.publish()
        return attempt.commit(filtered=filtered, seconds={}, ran_on={})


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    output = OutputDirectory.open(tmp_path / "out")
    output.claim(record())
    return output


def test_a_finished_output_lists_the_committed_files_in_order(output):
    shards = plan()
    do(output, shards[1], bad=1)
    do(output, shards[0], filtered=2)
    manifest = output.finish(record(), shards)
    assert output.finished() == manifest
    assert manifest.rows == {"in": 10, "out": 7, "quarantined": 1, "filtered": 2}
    assert manifest.reasons == {"empty": 1}
    rows = [pq.read_table(root_of(output) / file.path)["row"].to_pylist() for file in manifest.data]
    assert rows == [[2, 3, 4], [6, 7, 8, 9]]
    (quarantine,) = manifest.quarantine
    assert pq.read_table(root_of(output) / quarantine.path).to_pylist() == [
        {"source_file": "/in", "source_row": 5, "reason": "empty", "detail": "no bytes"}
    ]


def test_a_shard_without_bad_rows_has_no_quarantine_file(output):
    assert do(output, plan()[0]).quarantine is None
    assert not (root_of(output) / "quarantine").exists()


@settings(max_examples=10)
@given(racers=st.integers(2, 8))
def test_of_all_who_race_for_a_shard_one_wins_and_its_file_alone_stays(tmp_path_factory, racers):
    output = OutputDirectory.open(tmp_path_factory.mktemp("race") / "out")
    shard = plan(5)[0]
    output.claim(record(5, 1))
    start = threading.Barrier(racers)

    def race(_: int) -> str | None:
        with output.attempt(shard, SCHEMA) as attempt:
            attempt.write(pa.table({"row": range(5)}))
            attempt.publish()
            start.wait()
            try:
                return attempt.commit(filtered=0, seconds={}, ran_on={}).attempt
            except CommitLostError:
                return None

    with ThreadPoolExecutor(racers) as executor:
        winners = [winner for winner in executor.map(race, range(racers)) if winner]
    (winner,) = winners
    assert output.commit_of(shard.id).attempt == winner
    assert [path.name for path in (root_of(output) / "data").iterdir()] == [f"{shard.id}-{winner}.parquet"]


class Crash(BaseException):
    """The process is gone: nothing is cleaned up."""


@pytest.mark.parametrize("point", ["before publishing", "before committing", "after committing"])
def test_after_a_crash_at_any_point_every_row_is_there_once(output, monkeypatch, point):
    shards = plan()
    do(output, shards[0])
    monkeypatch.setattr(Attempt, "close", lambda _self: None)  # a killed process closes nothing
    attempt = Attempt(store=output.store, shard=shards[1], schema=SCHEMA)
    attempt.write(pa.table({"row": range(5, 10)}))
    if point != "before publishing":
        attempt.publish()
    if point == "after committing":
        attempt.commit(filtered=0, seconds={}, ran_on={})
    again = OutputDirectory.open(output.uri)
    again.claim(record())
    for shard in shards:
        if again.commit_of(shard.id) is None:
            do(again, shard)
    manifest = again.finish(record(), shards)
    rows = [row for file in manifest.data for row in pq.read_table(root_of(output) / file.path)["row"].to_pylist()]
    assert rows == list(range(10))
    attempt._good.discard()  # what the dead process held


def test_a_commit_whose_outcome_is_unknown_keeps_its_files(output, monkeypatch):
    shard = plan()[0]

    def link_then_fail(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        raise OSError(errno.EIO, "the directory could not be synced", str(path))

    monkeypatch.setattr(directory_module, "create_bytes", link_then_fail)
    with pytest.raises(OSError, match="synced"):
        do(output, shard)
    commit = output.commit_of(shard.id)
    assert (root_of(output) / commit.data.path).stat().st_size == commit.data.size


def test_a_full_disk_leaves_no_file_behind(output, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        do(output, plan()[0], bad=1)
    assert list((root_of(output) / "data").iterdir()) == []
    assert list((root_of(output) / "quarantine").iterdir()) == []
    assert output.commits() == {}


def test_rows_that_do_not_balance_are_no_commit(output):
    with output.attempt(plan()[0], SCHEMA) as attempt:
        attempt.write(pa.table({"row": [1, 2]}))
        attempt.publish()
        with pytest.raises(OutputError, match="5 rows in, but 2 out"):
            attempt.commit(filtered=0, seconds={}, ran_on={})
    assert output.commits() == {}


def test_nothing_is_finished_before_every_shard_is_committed(output):
    shards = plan()
    do(output, shards[0])
    with pytest.raises(OutputError, match="1 shards are not committed"):
        output.finish(record(), shards)
    assert output.finished() is None
    assert not (root_of(output) / "_SUCCESS").exists()


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_a_committed_file_that_was_harmed_is_noticed(output, harm):
    shards = plan()
    for shard in shards:
        do(output, shard)
    harm(root_of(output) / output.commit_of(shards[0].id).data.path)
    with pytest.raises(OutputError, match=shards[0].id):
        output.finish(record(), shards)


def test_two_drivers_finish_the_same_way(output):
    shards = plan()
    for shard in shards:
        do(output, shard)
    with ThreadPoolExecutor(4) as executor:
        manifests = list(executor.map(lambda _: output.finish(record(), shards), range(4)))
    assert len({manifest.to_bytes() for manifest in manifests}) == 1
    assert OutputManifest.model_validate_json((root_of(output) / "_manifest.json").read_bytes()) == manifests[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"models": {"m@2": "bb"}}, r"model m@1 \(now m@2\)"),
        ({"models": {"m@1": "aa", "n@1": "cc"}}, r"model m@1 \(now m@1, n@1\)"),
        ({"input": "/else"}, r"input /in \(now /else\)"),
        ({"options": {"keep": ["a"]}}, r"keep \[\] \(now \['a'\]\)"),
        ({"files": {"/in": ("2", 10)}}, "1 input file\\(s\\) changed, the first is /in"),
        ({"files": {"/in": ("1", 10), "/new": ("1", 1)}}, "1 input file\\(s\\) added, the first is /new"),
        ({"files": {}}, "1 input file\\(s\\) gone, the first is /in"),
    ],
)
def test_another_jobs_directory_is_refused_with_the_difference(output, changes, named):
    with pytest.raises(OtherJobError, match=named):
        output.claim(record(**changes))
    output.claim(record())


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(OutputError, match="not empty"):
        OutputDirectory.open(tmp_path).claim(record())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_file_is_no_output_directory(tmp_path):
    (tmp_path / "out").write_text("hello")
    with pytest.raises(OutputError, match="not a directory"):
        OutputDirectory.open(tmp_path / "out").claim(record())


def test_of_drivers_that_claim_at_the_same_time_those_of_another_job_lose(tmp_path):
    output = OutputDirectory.open(tmp_path / "out")
    start = threading.Barrier(6)

    def claim(number: int) -> bool:
        start.wait()
        try:
            output.claim(record(models={"m@1": f"{number % 2}"}))
        except OtherJobError:
            return False
        return True

    with ThreadPoolExecutor(6) as executor:
        won = list(executor.map(claim, range(6)))
    owner = int(json.loads((root_of(output) / "_job.json").read_bytes())["models"]["m@1"])
    assert won == [number % 2 == owner for number in range(6)]


def test_a_damaged_commit_is_named(output):
    shard = plan()[0]
    (root_of(output) / "_commits" / f"{shard.id}.json").write_text("{")
    with pytest.raises(OutputError, match=f"{shard.id}.json is damaged"):
        output.commits()


def test_many_small_writes_become_few_row_groups(output):
    shard = plan(1000, 1000)[0]
    with output.attempt(shard, SCHEMA) as attempt:
        for row in range(1000):
            attempt.write(pa.table({"row": [row]}))
        attempt.publish()
        commit = attempt.commit(filtered=0, seconds={}, ran_on={})
    file = pq.ParquetFile(root_of(output) / commit.data.path)
    assert file.metadata.num_row_groups == 1
    assert file.read()["row"].to_pylist() == list(range(1000))
    file.close()
