"""A pool that begins in this process, and goes on in children where a job is long."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from color_model import write_rows

from cluster.dispatch.loop import Policy, dispatch
from cluster.errors import PoolError
from cluster.job import run_batch
from cluster.planning import Job, plan_job
from cluster.pool import growing
from cluster.pool.base import LocalPool
from cluster.pool.children import ChildPool
from cluster.pool.growing import LONG, LOOKED_AT, GrowingPool
from cluster.pool.tasks import Task
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads

ROWS = 400


class Clock:
    """A clock that each look sets forward by some seconds."""

    def __init__(self, step: float) -> None:
        self._now, self._step = 0.0, step

    def __call__(self) -> float:
        self._now += self._step
        return self._now


@pytest.fixture
def job(options, tmp_path: Path) -> Job:
    write_rows(tmp_path / "in.parquet", ROWS)
    job = plan_job(options(shard_rows=10))
    job.output.claim(job.record)
    return job


@pytest.fixture
def make(job) -> Iterator[Callable[..., GrowingPool]]:
    pools = []

    def make_pool(rows: int, provider: str = "cpu") -> GrowingPool:
        here = LocalPool(ShardWorker(job.models, job.spec, Threads(decode=0).times(2)), workers=2)
        spec = replace(job.spec, provider=provider)
        pool = GrowingPool(here, lambda: ChildPool(job.models, spec, Threads(decode=0), 2), rows, Clock(LOOKED_AT))
        pools.append(pool)
        return pool

    yield make_pool
    for pool in pools:
        pool.close()


def noted(begun: list[subprocess.Popen[bytes]]) -> Callable[..., subprocess.Popen[bytes]]:
    """Return `subprocess.Popen`, which tells *begun* of each process."""
    begin = subprocess.Popen

    def popen(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        begun.append(begin(*arguments, **named))
        return begun[-1]

    return popen


def run(pool: GrowingPool, job: Job) -> dict[str, int]:
    """Run all shards of *job* in *pool*; return how many rows each process committed."""
    dispatch(pool, job.shards, Policy(), on_committed=lambda _: None, on_progress=lambda _: None)
    rows: dict[str, int] = {}
    for commit in job.output.commits().values():
        rows[commit.ran_on["pid"]] = rows.get(commit.ran_on["pid"], 0) + commit.rows
    return rows


def wait_for_children(pool: GrowingPool) -> None:
    while not isinstance(pool._taking, ChildPool):
        pool.wait(0.1)


def test_a_long_job_goes_on_in_children_and_every_row_is_committed_once(make, job):
    pool = make(10**9)
    first = Task(number=1000, shard=job.shards[0])
    assert pool.offer(first)
    wait_for_children(pool)
    rows = run(pool, job)
    assert sum(rows.values()) == ROWS
    assert len(set(rows) - {str(os.getpid())}) == 2
    assert pool._here is None


def test_a_short_job_ends_where_it_began(make, job):
    pool = make(ROWS)
    pool._clock = Clock(LONG / len(job.shards) / 100)
    assert run(pool, job) == {str(os.getpid()): ROWS}
    assert pool._starting is None


def test_a_job_that_ends_while_children_start_waits_for_none(options, tmp_path, monkeypatch, capfd):
    write_rows(tmp_path / "in.parquet", ROWS)
    begun = []
    monkeypatch.setattr(growing, "LOOKED_AT", 0.0)
    monkeypatch.setattr(growing, "LONG", 0.0)
    monkeypatch.setattr("cluster.pool.children.subprocess.Popen", noted(begun))
    summary = run_batch(options(shard_rows=10))
    assert summary.rows["out"] == ROWS
    ended = [process.returncode for process in begun if "cluster.pool.child" in process.args]
    assert ended == [-signal.SIGKILL, -signal.SIGKILL]
    assert capfd.readouterr().err == ""


def test_where_children_cannot_start_the_job_goes_on_here_and_says_why(make, job):
    pool = make(10**9, provider="quantum")
    assert pool.offer(Task(number=1000, shard=job.shards[0]))
    while not pool.remarks:
        pool.wait(0.1)
    assert run(pool, job) == {str(os.getpid()): ROWS}
    (remark,) = pool.remarks
    assert remark.startswith("all ran in one process: ")
    assert "quantum" in remark


def test_what_is_stuck_can_be_abandoned_in_a_child_alone(make, job):
    pool = make(10**9)
    pool._here._running["stuck"] = here = Task(number=1000, shard=job.shards[0])
    with pytest.raises(PoolError, match="without Ray"):
        pool.abandon(here)
    del pool._here._running["stuck"]
    assert pool.offer(Task(number=1001, shard=job.shards[0]))
    wait_for_children(pool)
    there = Task(number=1002, shard=job.shards[1])
    assert pool.offer(there)
    pool.abandon(there)
    outcomes = []
    while all(outcome.task.number != there.number for outcome in outcomes):
        outcomes += pool.wait(0.1)
    assert "stuck" in next(outcome.failure.text for outcome in outcomes if outcome.task.number == there.number)
