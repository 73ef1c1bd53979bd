"""Retries, stalls and progress, against a pool that fails on command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.dispatch import Policy, dispatch
from cluster.errors import PoolError, ShardError
from cluster.plan import InputFile, RowGroup, Shard, ShardLimits, plan_shards
from cluster.pool import Failure, Outcome
from cluster.records import Commit, WrittenFile

SHARDS = plan_shards([InputFile(path="/in", etag="1", groups=(RowGroup(60, 0),))], ShardLimits(rows=10), reader="r")


def committed(shard: Shard) -> Outcome:
    data = WrittenFile(path=shard.id, rows=shard.rows, size=1)
    return Outcome(shard=shard, commit=Commit(shard=shard.id, attempt="a", rows=shard.rows, data=data))


class SimulatedPool:
    """Runs *slots* shards at a time; *behaviour* says by (shard, try) what becomes of one, or ``None``: nothing yet."""

    def __init__(self, behaviour: Callable[[Shard, int], Outcome | None], slots: int = 2) -> None:
        self.behaviour, self.slots = behaviour, slots
        self.tries: Counter[str] = Counter()
        self.running: dict[str, Shard] = {}
        self.abandoned: list[Outcome] = []
        self.alone: list[str] = []
        self.now = 0.0

    def offer(self, shard, *, alone=False):
        if len(self.running) == self.slots or (alone and self.running):
            return False
        assert shard.id not in self.running
        if alone:
            self.alone.append(shard.id)
        self.tries[shard.id] += 1
        self.running[shard.id] = shard
        return True

    def wait(self, timeout):
        self.now += timeout
        ended = self.abandoned
        self.abandoned = []
        for shard in list(self.running.values()):
            outcome = self.behaviour(shard, self.tries[shard.id])
            if outcome is not None:
                ended.append(outcome)
        for outcome in ended:
            del self.running[outcome.shard.id]
        return ended

    def progress(self):
        return {}

    def abandon(self, shard):
        self.abandoned.append(Outcome(shard=shard, failure=Failure(text="stuck")))

    def run(self, policy: Policy | None = None) -> list[str]:
        done: list[str] = []
        dispatch(
            self,
            SHARDS,
            policy or Policy(),
            on_committed=lambda outcome: done.append(outcome.shard.id),
            on_progress=lambda _rows: None,
            clock=lambda: self.now,
        )
        return done


@given(failures=st.lists(st.integers(0, 3), min_size=6, max_size=6), slots=st.integers(1, 4))
def test_every_shard_is_committed_once_if_none_fails_too_often(failures, slots):
    bound = dict(zip((shard.id for shard in SHARDS), failures, strict=True))

    def behaviour(shard, tries):
        return committed(shard) if tries > bound[shard.id] else Outcome(shard=shard, failure=Failure(text="x"))

    pool = SimulatedPool(behaviour, slots)
    done = pool.run(Policy(max_retries=3))
    assert sorted(done) == sorted(bound)
    assert pool.tries == {shard_id: count + 1 for shard_id, count in bound.items()}
    assert Counter(pool.alone) == {shard_id: count for shard_id, count in bound.items() if count}


def test_a_shard_that_fails_too_often_ends_the_job_and_is_named():
    pool = SimulatedPool(
        lambda shard, _: Outcome(shard=shard, failure=Failure(text="boom")) if shard is SHARDS[3] else committed(shard)
    )
    with pytest.raises(ShardError, match=rf"shard {SHARDS[3].id} .*/in rows 30-39.* failed 3 times.*boom"):
        pool.run(Policy(max_retries=2))
    assert pool.tries[SHARDS[3].id] == 3


def test_a_hopeless_failure_is_not_tried_again():
    pool = SimulatedPool(lambda shard, _: Outcome(shard=shard, failure=Failure(text="disk full", hopeless=True)))
    with pytest.raises(ShardError, match="disk full"):
        pool.run()
    assert max(pool.tries.values()) == 1


def test_a_shard_that_another_driver_committed_counts():
    pool = SimulatedPool(lambda shard, _: Outcome(shard=shard))
    assert sorted(pool.run()) == sorted(shard.id for shard in SHARDS)


def test_a_shard_without_progress_is_abandoned_and_tried_again():
    def behaviour(shard, tries):
        return None if shard is SHARDS[0] and tries == 1 else committed(shard)

    pool = SimulatedPool(behaviour)
    done = pool.run(Policy(stall_timeout=10))
    assert sorted(done) == sorted(shard.id for shard in SHARDS)
    assert pool.tries[SHARDS[0].id] == 2
    assert 10 < pool.now < 12


def test_a_slow_shard_with_progress_is_left_alone():
    def behaviour(shard, _):
        return committed(shard) if pool.now > 100 else None

    pool = SimulatedPool(behaviour, slots=6)
    pool.progress = lambda: {shard_id: int(pool.now) for shard_id in pool.running}
    pool.run(Policy(stall_timeout=5))
    assert max(pool.tries.values()) == 1


def test_a_pool_without_workers_ends_the_job():
    pool = SimulatedPool(lambda _shard, _tries: None)
    pool.offer = lambda _shard, *, alone=False: False  # noqa: ARG005 - the interface's name

    def wait(_timeout):
        raise PoolError("none is left")

    pool.wait = wait
    with pytest.raises(PoolError, match="none is left"):
        pool.run()
