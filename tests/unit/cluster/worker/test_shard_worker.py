from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from color_model import picture, write_rows
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import CommitLostError, InputChangedError, StoppedError
from cluster.input.blocks import BlockLimits
from cluster.output.commit import OutputDirectory
from cluster.planning import Job, plan_job
from cluster.pool.base import LocalPool, run_task
from cluster.pool.tasks import Task
from cluster.worker.shard_worker import STAGES, ShardWorker
from cluster.worker.spec import Threads
from cluster.worker.tuning import LADDER
from runtime.images import read

PNG = picture(0)
BAD = {2: b"", 3: b"no image at all", 4: PNG[: len(PNG) // 2], 7: None}


@pytest.fixture
def job(options, tmp_path: Path) -> Job:
    write_rows(tmp_path / "in.parquet", 50, row_group=15, bad=BAD)
    job = plan_job(options(keep=("number",), batch_size=4))
    job.output.claim(job.record)
    return job


APART, IN_TURN = Threads(decode=2), Threads(decode=0)


def make_worker(job: Job, threads: Threads = APART) -> ShardWorker:
    return ShardWorker(job.models, job.spec, threads)


def tasks_of(job: Job) -> list[Task]:
    return [Task(number=number, shard=shard) for number, shard in enumerate(job.shards)]


def rows_of(output: OutputDirectory, path: str) -> list[dict]:
    return pq.read_table(Path(output.uri) / path).to_pylist()


@pytest.mark.parametrize("threads", [APART, IN_TURN], ids=str)
def test_a_shard_becomes_rows_bad_rows_and_a_commit(job, threads):
    worker = make_worker(job, threads)
    commit = worker.run(job.shards[0])
    good = [n for n in range(commit.rows) if n not in BAD]
    rows = rows_of(job.output, commit.data.path)
    assert [(row["number"], row["source_row"], row["label_id"]) for row in rows] == [(n, n, n % 3) for n in good]
    assert {row["source_file"] for row in rows} == {job.shards[0].ranges[0].path}
    assert all(row["top_k"][0]["label"] == row["label"] == ("red", "green", "blue")[row["label_id"]] for row in rows)
    bad = rows_of(job.output, commit.quarantine.path)
    assert [(row["source_row"], row["reason"]) for row in bad] == [
        (2, "empty"),
        (3, "not_an_image"),
        (4, "truncated"),
        (7, "missing"),
    ]
    assert commit.reasons == {"empty": 1, "missing": 1, "not_an_image": 1, "truncated": 1}
    assert set(commit.seconds) == set(STAGES)
    assert min(commit.seconds.values()) > 0
    assert commit.ran_on["provider"] == "CPUExecutionProvider"
    assert "batch" not in commit.ran_on  # the graph takes any
    assert commit.decoders == {read(PNG).decoder: len(good)}


@pytest.mark.parametrize("threads", [APART, IN_TURN], ids=str)
def test_batch_sizes_are_tried_and_answers_do_not_depend_on_them(options, tmp_path, threads):
    write_rows(tmp_path / "in.parquet", 1500, bad=BAD)
    found = []
    for name, size in (("tuned", None), ("one", 1), ("many", 64)):
        job = plan_job(options(keep=("number",), batch_size=size, shard_rows=500, output=str(tmp_path / name)))
        job.output.claim(job.record)
        worker = make_worker(job, threads)
        commits = [worker.run(shard) for shard in job.shards]
        found.append([row for commit in commits for row in rows_of(job.output, commit.data.path)])
        settings = commits[-1].ran_on["settings"]
        sizes = size or "|".join(map(str, LADDER))
        how = r"decode=\d infer=1" if threads.decode else r"decode\+infer=1"
        assert re.fullmatch(rf"batches of ({sizes}), threads session=1 {how}", settings)
        assert worker._tuner.settled or len(worker._tuner._handed) > 1
    assert found[0] == found[1] == found[2]
    assert [row["number"] for row in found[0]] == [number for number in range(1500) if number not in BAD]


def test_given_threads_are_taken(options, tmp_path):
    write_rows(tmp_path / "in.parquet", 20)
    job = plan_job(options(threads="2:3", batch_size=5))
    job.output.claim(job.record)
    worker = make_worker(job, Threads(infer=2, decode=2))
    assert worker.run(job.shards[0]).ran_on["settings"] == "batches of 5, threads session=2 decode=6 infer=2"


def test_another_division_of_the_threads_changes_no_answer(job, monkeypatch):
    worker = make_worker(job, Threads(session=1, decode=3))
    before = [row["score"] for row in rows_of(job.output, worker.run(job.shards[0]).data.path)]
    monkeypatch.setattr(worker._tuner, "divided", lambda session, decode: (session + 1, decode - 1))
    worker._divide_threads()
    other = plan_job(replace(job.options, output=f"{job.output.uri}-2"))
    other.output.claim(other.record)
    worker._output = other.output
    commit = worker.run(job.shards[0])
    assert commit.ran_on["settings"] == "batches of 4, threads session=2 decode=2 infer=1"
    assert [row["score"] for row in rows_of(other.output, commit.data.path)] == before


@given(st.integers(0, 1 << 34), st.integers(1, 16), st.integers(1, 8), st.integers(1, 1 << 24), st.integers(1, 256))
def test_all_batches_in_buffers_fit_into_the_memory_unless_they_are_single_rows(memory, decode, infer, row, size):
    threads = Threads(decode=decode, infer=infer)
    limits = BlockLimits.within(memory, threads.batches, row, size)
    assert 1 <= limits.rows <= size
    assert limits.size * threads.batches <= max(memory, threads.batches)
    assert limits.rows == 1 or limits.rows * row * threads.batches <= memory


def test_the_file_says_which_model_made_it(job):
    commit = make_worker(job).run(job.shards[0])
    metadata = pq.read_schema(Path(job.output.uri) / commit.data.path).metadata
    assert metadata[b"vedette.manifest_sha256"].decode() == job.models[0].artifact.digest
    assert metadata[b"vedette.variant"] == b"fp32"


def test_a_committed_shard_is_not_read_again(job):
    worker = make_worker(job)
    worker.run(job.shards[0])
    Path(job.shards[0].ranges[0].path).unlink()
    with pytest.raises(CommitLostError):
        worker.run(job.shards[0])


@pytest.mark.parametrize("threads", [Threads(decode=2, infer=2), Threads(decode=0, infer=2)], ids=str)
def test_shards_run_at_the_same_time_do_not_mix(job, threads):
    worker = make_worker(job, threads)
    outcomes = []
    threads = [
        threading.Thread(target=lambda task=task: outcomes.append(run_task(worker, task))) for task in tasks_of(job)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.failure for outcome in outcomes] == [None] * len(job.shards)
    manifest = job.output.finish(job.record, job.shards)
    numbers = [row["number"] for file in manifest.data for row in rows_of(job.output, file.path)]
    assert numbers == [n for n in range(50) if n not in BAD]


def test_a_failed_shard_leaves_no_file_and_no_thread(job):
    worker = make_worker(job)
    worker.run(job.shards[0])  # the decoding threads are there now
    files, threads = sorted((Path(job.output.uri) / "data").iterdir()), threading.active_count()
    write_rows(Path(job.shards[0].ranges[0].path), 51)
    with pytest.raises(InputChangedError):
        worker.run(job.shards[1])
    assert sorted((Path(job.output.uri) / "data").iterdir()) == files
    assert threading.active_count() == threads
    assert worker.progress() == {}


def test_a_stopped_worker_gives_its_shards_up(job):
    worker = make_worker(job)
    worker.stop()
    with pytest.raises(StoppedError):
        worker.run(job.shards[0])
    assert job.output.commits() == {}


def test_the_local_pool_takes_what_it_has_room_for(job):
    pool = LocalPool(make_worker(job), workers=1)
    tasks = tasks_of(job)
    assert pool.offer(tasks[0])
    assert not pool.offer(replace(tasks[0], number=9))
    assert pool.offer(tasks[1])
    assert not pool.offer(tasks[2])
    outcomes: list = []
    while not outcomes:
        outcomes = pool.wait(1.0)
    assert outcomes[0].commit.shard in {task.shard.id for task in tasks[:2]}
    assert pool.offer(tasks[2])
    pool.close()
    assert not any(thread.name.startswith("shard-") for thread in threading.enumerate())


def test_at_most_the_allowed_inferences_run_at_a_time(job, monkeypatch):
    worker = make_worker(job, Threads(decode=2, infer=1))
    inside, most = [], []
    infer: Callable = worker._models[0].predictor.infer

    def watched(batch):
        inside.append(1)
        most.append(len(inside))
        try:
            return infer(batch)
        finally:
            inside.pop()

    monkeypatch.setattr(worker._models[0].predictor, "infer", watched)
    threads = [threading.Thread(target=run_task, args=(worker, task)) for task in tasks_of(job)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_spared_rows_are_in_quarantine_without_a_look_at_them(job, monkeypatch):
    worker = make_worker(job)
    seen: list = []
    preparation = worker._models[0].predictor.preparation
    load: Callable = preparation.load
    monkeypatch.setattr(preparation, "load", lambda image, **how: seen.append(image) or load(image, **how))
    commit = worker.run(job.shards[0], spared=frozenset({0, 5}))
    bad = rows_of(job.output, commit.quarantine.path)
    assert [row["source_row"] for row in bad if row["reason"] == "crashed_worker"] == [0, 5]
    numbers = [row["number"] for row in rows_of(job.output, commit.data.path)]
    assert numbers == [n for n in range(commit.rows) if n not in {0, 5, *BAD}]
    assert len(seen) == commit.rows - 2 - sum(data is None for data in BAD.values())


def test_spared_rows_that_the_filter_leaves_out_are_filtered(options, tmp_path):
    write_rows(tmp_path / "in.parquet", 20)
    job = plan_job(options(keep=("number",), filter="number >= 5"))
    job.output.claim(job.record)
    commit = make_worker(job).run(job.shards[0], spared=frozenset({2, 7}))
    assert commit.filtered == 5
    assert commit.reasons == {"crashed_worker": 1}


def test_a_probe_infers_its_rows_and_writes_nothing(job, monkeypatch):
    worker = make_worker(job)
    sizes: list[int] = []
    infer: Callable = worker._models[0].predictor.infer
    monkeypatch.setattr(worker._models[0].predictor, "infer", lambda batch: sizes.append(len(batch)) or infer(batch))
    worker.probe(job.shards[0], (8, 15), share=2)
    assert sum(sizes) == 7
    assert max(sizes) <= 2
    assert list((Path(job.output.uri) / "data").iterdir()) == []
    assert worker.progress() == {}


def test_a_batch_of_bad_rows_alone_keeps_its_columns(options, tmp_path):
    write_rows(tmp_path / "in.parquet", 8, bad=dict.fromkeys(range(4), b""))
    job = plan_job(options(keep=("number",), batch_size=4))
    job.output.claim(job.record)
    commit = make_worker(job).run(job.shards[0])
    assert [row["number"] for row in rows_of(job.output, commit.data.path)] == [4, 5, 6, 7]
