"""Retries, stalls and progress, against a pool that fails on command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.dispatch.loop import Policy, dispatch
from cluster.errors import PoolError, ShardError
from cluster.output.records import Commit, WrittenFile
from cluster.plan import InputFile, RowGroup, Shard, ShardLimits, plan_shards
from cluster.pool.tasks import Failure, Kind, Outcome, Task

SHARDS = plan_shards([InputFile(path="/in", etag="1", groups=(RowGroup(60, 0),))], ShardLimits(rows=10), reader="r")


def committed(task: Task) -> Outcome:
    data = WrittenFile(path=task.shard.id, rows=task.shard.rows, size=1)
    return Outcome(task=task, commit=Commit(shard=task.shard.id, attempt="a", rows=task.shard.rows, data=data))


def failed(task: Task, kind: Kind = Kind.ERROR, **more: str) -> Outcome:
    return Outcome(task=task, failure=Failure(text=f"a case of {kind}", kind=kind, **more))


class SimulatedPool:
    """Workers with two slots each; *behaviour* says by (task, try) what becomes of one, or ``None``: nothing yet."""

    def __init__(self, behaviour: Callable[[Task, int], Outcome | None], workers: int = 1) -> None:
        self.behaviour, self.workers = behaviour, workers
        self.remarks: list[str] = []
        self.tries: Counter[str] = Counter()
        self.running: list[list[Task]] = [[] for _ in range(workers)]
        self.abandoned: list[Outcome] = []
        self.taken: list[Task] = []
        self.now = 0.0

    def offer(self, task):
        for tasks in sorted(self.running, key=len):
            if len(tasks) < (1 if task.alone or any(other.alone for other in tasks) else 2):
                if any(other.shard is task.shard for other in tasks):
                    continue
                self.tries[task.shard.id] += 1
                self.taken.append(task)
                tasks.append(task)
                return True
        return False

    def wait(self, timeout):
        self.now += timeout
        ended = self.abandoned
        self.abandoned = []
        for task in [task for tasks in self.running for task in tasks]:
            outcome = self.behaviour(task, self.tries[task.shard.id])
            if outcome is not None:
                ended.append(outcome)
        for outcome in ended:
            for tasks in self.running:
                if outcome.task in tasks:
                    tasks.remove(outcome.task)
        return ended

    def progress(self):
        return {}

    def abandon(self, task):
        self.abandoned.append(failed(task, Kind.STUCK))

    def run(self, policy: Policy | None = None) -> list[str]:
        done: list[str] = []
        self.happened = dispatch(
            self,
            SHARDS,
            policy or Policy(),
            on_committed=lambda outcome: done.append(outcome.task.shard.id),
            on_progress=lambda _rows: None,
            clock=lambda: self.now,
        )
        return done

    def of(self, shard: Shard) -> list[Task]:
        return [task for task in self.taken if task.shard is shard]


@given(failures=st.lists(st.integers(0, 3), min_size=6, max_size=6), workers=st.integers(1, 3))
def test_every_shard_is_committed_once_if_none_fails_too_often(failures, workers):
    bound = dict(zip((shard.id for shard in SHARDS), failures, strict=True))

    def behaviour(task, tries):
        return committed(task) if tries > bound[task.shard.id] else failed(task)

    pool = SimulatedPool(behaviour, workers)
    done = pool.run(Policy(max_retries=3))
    assert sorted(done) == sorted(bound)
    assert pool.tries == {shard_id: count + 1 for shard_id, count in bound.items()}
    alone = Counter(task.shard.id for task in pool.taken if task.alone)
    assert alone == {shard_id: count for shard_id, count in bound.items() if count}


def test_a_shard_that_fails_too_often_ends_the_job_and_is_named():
    pool = SimulatedPool(lambda task, _: failed(task) if task.shard is SHARDS[3] else committed(task))
    with pytest.raises(ShardError, match=rf"shard {SHARDS[3].id} .*/in rows 30-39.* failed 3 times.*a case of error"):
        pool.run(Policy(max_retries=2))
    assert pool.tries[SHARDS[3].id] == 3


def test_a_hopeless_failure_is_not_tried_again():
    pool = SimulatedPool(lambda task, _: failed(task, Kind.HOPELESS))
    with pytest.raises(ShardError, match="a case of hopeless"):
        pool.run()
    assert max(pool.tries.values()) == 1


def test_a_shard_that_another_driver_committed_counts():
    pool = SimulatedPool(lambda task, _: Outcome(task=task))
    assert sorted(pool.run()) == sorted(shard.id for shard in SHARDS)


def test_a_shard_without_progress_is_abandoned_and_tried_again():
    def behaviour(task, tries):
        return None if task.shard is SHARDS[0] and tries == 1 else committed(task)

    pool = SimulatedPool(behaviour)
    done = pool.run(Policy(stall_timeout=10))
    assert sorted(done) == sorted(shard.id for shard in SHARDS)
    assert pool.tries[SHARDS[0].id] == 2
    assert 10 < pool.now < 12


def test_a_slow_shard_with_progress_is_left_alone():
    def behaviour(task, _):
        return committed(task) if pool.now > 100 else None

    pool = SimulatedPool(behaviour, workers=3)
    pool.progress = lambda: {task.number: int(pool.now) for task in pool.taken}
    pool.run(Policy(stall_timeout=5))
    assert max(pool.tries.values()) == 1


def test_a_shard_that_takes_too_long_is_abandoned_although_it_makes_progress():
    def behaviour(task, tries):
        return None if task.shard is SHARDS[0] and tries == 1 else committed(task)

    pool = SimulatedPool(behaviour)
    pool.progress = lambda: {task.number: int(pool.now * 10) for task in pool.taken}
    pool.run(Policy(shard_timeout=20))
    assert pool.tries[SHARDS[0].id] == 2
    assert 20 < pool.now < 22


def deadly(rows: set[int]) -> Callable[[Task, int], Outcome]:
    """Return the behaviour of images that kill: *rows* of the fourth shard."""

    def behaviour(task, _):
        part = task.probe or (0, task.shard.rows)
        if task.shard is SHARDS[3] and rows.intersection(range(*part)) - task.spared:
            return failed(task, Kind.CRASH)
        return Outcome(task=task) if task.probe else committed(task)

    return behaviour


@given(rows=st.sets(st.integers(0, 9)), workers=st.integers(1, 3))
def test_rows_that_kill_are_found_and_spared_and_every_shard_is_committed_once(rows, workers):
    pool = SimulatedPool(deadly(rows), workers)
    done = pool.run(Policy(max_retries=0))
    assert sorted(done) == sorted(shard.id for shard in SHARDS)
    assert pool.of(SHARDS[3])[-1].spared == rows
    assert all(task.alone for task in pool.of(SHARDS[3])[1:])
    assert all(not task.probe and not task.spared for task in pool.taken if task.shard is not SHARDS[3])


def test_a_row_that_kills_only_after_a_search_is_found_by_the_next():
    later: set[int] = set()

    def behaviour(task, tries):
        if task.spared:
            later.add(8)
        return deadly({2, *later})(task, tries)

    pool = SimulatedPool(behaviour)
    pool.run()
    assert pool.of(SHARDS[3])[-1].spared == {2, 8}


def test_a_shard_that_kills_though_no_row_does_is_tried_with_smaller_batches():
    def behaviour(task, _):
        if task.shard is SHARDS[3] and task.probe is None and task.share < 4:
            return failed(task, Kind.CRASH)
        return Outcome(task=task) if task.probe else committed(task)

    pool = SimulatedPool(behaviour)
    assert len(pool.run()) == len(SHARDS)
    assert pool.of(SHARDS[3])[-1].share == 4


def test_a_shard_that_kills_whatever_is_done_ends_the_job():
    def behaviour(task, _):
        if task.shard is SHARDS[3] and task.probe is None:
            return failed(task, Kind.CRASH)
        return Outcome(task=task) if task.probe else committed(task)

    with pytest.raises(ShardError, match="a case of crash"):
        SimulatedPool(behaviour).run()


def test_one_death_makes_no_search():
    def behaviour(task, tries):
        return failed(task, Kind.CRASH) if task.shard is SHARDS[3] and tries == 1 else committed(task)

    pool = SimulatedPool(behaviour)
    pool.run()
    assert not any(task.probe for task in pool.taken)
    assert pool.happened == {"crash": 1}


def test_without_memory_a_shard_is_tried_elsewhere_with_half_the_batch():
    def behaviour(task, tries):
        return failed(task, Kind.MEMORY, node="n1") if task.shard is SHARDS[0] and tries < 3 else committed(task)

    pool = SimulatedPool(behaviour)
    pool.run()
    assert [(task.share, task.avoid) for task in pool.of(SHARDS[0])] == [(1, set()), (2, {"n1"}), (4, {"n1"})]


def test_losses_are_no_fault_of_the_shard_but_bounded():
    pool = SimulatedPool(lambda task, tries: failed(task, Kind.LOST) if tries <= 5 else committed(task))
    assert len(pool.run(Policy(max_retries=0))) == len(SHARDS)
    with pytest.raises(ShardError, match="a case of lost"):
        SimulatedPool(lambda task, _: failed(task, Kind.LOST)).run()


def test_a_straggler_gets_one_second_attempt_and_the_first_commit_counts():
    def behaviour(task, tries):
        return None if task.shard is SHARDS[0] and tries == 1 else committed(task)

    pool = SimulatedPool(lambda task, _: behaviour(task, 2 if task.number else 1), workers=2)
    done = pool.run(Policy(stall_timeout=1000))
    assert sorted(done) == sorted(shard.id for shard in SHARDS)
    assert len(pool.of(SHARDS[0])) == 2
    assert pool.happened == {"second attempt": 1}
    assert pool.now < 10


def test_the_failure_of_one_of_two_attempts_waits_for_the_other():
    def behaviour(task, _):
        if task.shard is not SHARDS[0]:
            return committed(task)
        if task.number == 0:
            return committed(task) if pool.now > 20 else None
        return failed(task, Kind.LOST)

    pool = SimulatedPool(behaviour, workers=2)
    assert len(pool.run()) == len(SHARDS)
    assert len(pool.of(SHARDS[0])) == 2


def test_a_pool_without_workers_ends_the_job():
    pool = SimulatedPool(lambda _task, _tries: None)
    pool.offer = lambda _task: False

    def wait(_timeout):
        raise PoolError("none is left")

    pool.wait = wait
    with pytest.raises(PoolError, match="none is left"):
        pool.run()
