"""The pool of child processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from color_model import write_rows

from cluster.errors import PoolError
from cluster.planning import Job, plan_job
from cluster.pool.children import ChildPool
from cluster.pool.tasks import Kind, Outcome, Task
from cluster.worker.spec import Threads


@pytest.fixture
def job(options, tmp_path: Path) -> Job:
    write_rows(tmp_path / "in.parquet", 100)
    job = plan_job(options())
    job.output.claim(job.record)
    return job


@pytest.fixture
def pool(job) -> Iterator[ChildPool]:
    pool = ChildPool(job.models, job.spec, Threads(infer=2))
    yield pool
    pool.close()


def wait_for(pool: ChildPool, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        outcomes += pool.wait(0.1)
    return sorted(outcomes, key=lambda outcome: outcome.task.number)


def offer(pool: ChildPool, task: Task) -> None:
    while not pool.offer(task):
        pool.wait(0.1)


def test_tasks_are_committed_by_the_child(pool, job):
    tasks = [Task(number=number, shard=shard) for number, shard in enumerate(job.shards[:2])]
    for task in tasks:
        offer(pool, task)
    assert [outcome.commit.shard for outcome in wait_for(pool, 2)] == [task.shard.id for task in tasks]
    assert job.output.committed() == {task.shard.id for task in tasks}


def test_a_killed_child_is_a_crash_of_its_tasks_and_replaced(pool, job):
    tasks = [Task(number=number, shard=shard) for number, shard in enumerate(job.shards[:2])]
    while not pool.ready:
        pool.wait(0.1)
    os.kill(pool._children[0].process.pid, signal.SIGSTOP)  # so that the task does not end before the kill
    assert pool.offer(tasks[0])
    os.kill(pool._children[0].process.pid, signal.SIGKILL)
    (crash,) = wait_for(pool, 1)
    assert crash.failure.kind is Kind.CRASH
    assert "SIGKILL" in crash.failure.text
    offer(pool, tasks[1])
    assert wait_for(pool, 1)[0].commit is not None


def test_a_stuck_task_is_abandoned_and_what_else_ran_is_lost(pool, job):
    tasks = [Task(number=number, shard=shard) for number, shard in enumerate(job.shards[:2])]
    while not pool.ready:
        pool.wait(0.1)
    os.kill(pool._children[0].process.pid, signal.SIGSTOP)
    assert all(pool.offer(task) for task in tasks)
    pool.abandon(tasks[0])
    assert [outcome.failure.kind for outcome in wait_for(pool, 2)] == [Kind.STUCK, Kind.LOST]


def test_a_child_that_cannot_start_is_an_error(job):
    pool = ChildPool(job.models, replace(job.spec, provider="quantum"), Threads())
    try:
        with pytest.raises(PoolError, match="quantum"):
            wait_for(pool, 1)
    finally:
        pool.close()
