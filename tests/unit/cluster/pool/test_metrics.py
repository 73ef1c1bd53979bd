"""What is counted of a job, against a pool that ends tasks on command."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.output.records import Commit, WrittenFile
from cluster.plan import InputFile, RowGroup, ShardLimits, plan_shards
from cluster.pool.metrics import MeasuredPool
from cluster.pool.tasks import Failure, Kind, Outcome, Task

SHARDS = plan_shards([InputFile(path="/in", etag="1", groups=(RowGroup(30, 0),))], ShardLimits(rows=10), reader="r")


def task(number, shard=0):
    return Task(number=number, shard=SHARDS[shard])


def committed(task):
    data = WrittenFile(path=task.shard.id, rows=9, size=1)
    bad = WrittenFile(path="q", rows=1, size=1)
    commit = Commit(
        shard=task.shard.id,
        attempt="a",
        rows=10,
        data=data,
        quarantine=bad,
        reasons={"empty": 1},
        seconds={"read": 2.0},
    )
    return Outcome(task=task, commit=commit)


class Ends:
    """A pool whose tasks end as it is told."""

    def __init__(self):
        self.remarks, self.workers, self.room, self.outcomes = ["slow"], 3, True, []

    def offer(self, _task):
        return self.room

    def wait(self, _timeout):
        return self.outcomes


class Notes:
    """A meter that keeps what it is told."""

    def __init__(self):
        self.counts, self.depths = Counter(), []

    def committed(self, commit):
        self.counts.update(rows=commit.rows, shards=1)

    def failed(self, kind):
        self.counts[f"failed {kind}"] += 1

    def waiting(self, shards):
        self.depths.append(shards)


@pytest.fixture
def pool():
    return Ends()


@pytest.fixture
def notes():
    return Notes()


def test_the_queue_is_what_nobody_has_begun(pool, notes):
    measured = MeasuredPool(pool, notes, len(SHARDS))
    measured.offer(task(0, 0))
    measured.offer(task(1, 1))
    measured.offer(task(2, 1))  # a second attempt
    pool.room = False
    assert not measured.offer(task(3, 2))
    assert notes.depths == [3, 2, 1, 1]


def test_a_failure_brings_a_shard_back_and_a_commit_never_does(pool, notes):
    measured = MeasuredPool(pool, notes, len(SHARDS))
    first, second = task(0), task(1)
    measured.offer(first)
    measured.offer(second)
    pool.outcomes = [Outcome(task=first, failure=Failure(text="x", kind=Kind.CRASH))]
    measured.wait(0)
    assert notes.depths[-1] == 3
    pool.outcomes = [committed(second), Outcome(task=first, failure=Failure(text="x", kind=Kind.LOST))]
    assert measured.wait(0) == pool.outcomes
    assert notes.depths[-1] == 2
    assert notes.counts == {"failed crash": 1, "failed lost": 1, "rows": 10, "shards": 1}


def test_what_another_committed_counts_nowhere(pool, notes):
    measured = MeasuredPool(pool, notes, len(SHARDS))
    measured.offer(task(0))
    pool.outcomes = [Outcome(task=task(0))]
    measured.wait(0)
    assert not notes.counts


def test_the_rest_is_the_pools(pool, notes):
    measured = MeasuredPool(pool, notes, 1)
    assert (measured.workers, measured.remarks) == (3, ["slow"])
