"""Drive shards through a pool: retries, crashes, stragglers, progress. No Ray, no disk, and the clock is an argument.

Rules:
    * A shard that fails is tried again, at the end of the queue and alone on a worker. What else
      follows depends on the kind of failure; `_AFTER` is the table.
    * Failures of the shard count; after ``max_retries`` of them the job fails and names the shard and
      the last one. What was not the shard's doing does not count, but `MOST_LOSSES` bounds it.
    * A shard at which processes died `DEATHS` times, the last time alone, is searched for the row
      (`cluster.dispatch.crashes`); then it is run with what was found in quarantine. A search that finds nothing
      leaves it to smaller batches. After `MOST_SEARCHES` of them a death is a failure like any other.
    * A shard without progress for ``stall_timeout`` seconds, or that runs longer than
      ``shard_timeout``, is abandoned, which is a failure of it.
    * When nothing waits and a worker is idle, a late shard gets one second attempt (`cluster.dispatch.stragglers`).
    * A shard counts once, when its first attempt is committed, or when another driver committed it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from cluster.dispatch.crashes import Search
from cluster.dispatch.stragglers import Run, straggler
from cluster.errors import ShardError
from cluster.plan import Shard
from cluster.pool.base import Pool
from cluster.pool.tasks import Failure, Kind, Outcome, Task

__all__ = ["Policy", "dispatch"]

POLL = 0.5  # seconds
DEATHS = 2
MOST_SEARCHES = 3  # of one shard
MOST_SPARED = 100  # rows of one shard; if more kill, it is not the images
MOST_LOSSES = 20  # of one shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How much a job puts up with.

    Attributes:
        max_retries: Further tries of a shard after its first.
        stall_timeout: Seconds that a running shard may make no progress.
        shard_timeout: Seconds that a try of a shard may take; unbounded if ``None``.
    """

    max_retries: int = 3
    stall_timeout: float = 300.0
    shard_timeout: float | None = None


@dataclass(slots=True, eq=False)
class _Case:
    """A shard, and all that happened to it."""

    shard: Shard
    failures: int = 0
    losses: int = 0
    deaths: int = 0  # of processes, since the last search
    searches: int = 0
    search: Search | None = None
    spared: frozenset[int] = frozenset()
    share: int = 1
    avoid: frozenset[str] = frozenset()
    attempts: int = 0  # that are running
    committed: bool = False

    def task(self, number: int, *, second: bool = False) -> Task:
        """Return what is to be done next; a *second* attempt beside a running one has a worker to itself."""
        troubled = bool(self.failures or self.losses or self.deaths or self.searches)
        return Task(
            number=number,
            shard=self.shard,
            probe=self.search.part if self.search else None,
            spared=self.spared,
            share=self.share,
            alone=second or troubled or self.search is not None,
            avoid=self.avoid,
        )


@dataclass(slots=True, eq=False)
class _Running:
    task: Task
    case: _Case
    began: float
    moved: float  # when it last made progress
    rows: int = 0
    doubled: bool = False


def _fail(case: _Case, task: Task, failure: Failure, policy: Policy) -> None:  # noqa: ARG001 - rows of one table
    case.failures += 1
    if case.failures > policy.max_retries:
        raise ShardError(f"shard {case.shard} failed {case.failures} times; the last time: {failure.text}")


def _give_up(case: _Case, task: Task, failure: Failure, policy: Policy) -> None:  # noqa: ARG001
    raise ShardError(f"shard {case.shard} failed: {failure.text}")


def _suspect(case: _Case, task: Task, failure: Failure, policy: Policy) -> None:
    case.deaths += 1
    if case.searches >= MOST_SEARCHES:
        _fail(case, task, failure, policy)
    elif task.alone and case.deaths >= DEATHS:
        case.search = Search.of(case.shard.rows)


def _shrink(case: _Case, task: Task, failure: Failure, policy: Policy) -> None:
    _fail(case, task, failure, policy)
    case.share *= 2
    if failure.node:
        case.avoid |= {failure.node}


def _forgive(case: _Case, task: Task, failure: Failure, policy: Policy) -> None:
    case.losses += 1
    if case.losses > MOST_LOSSES:
        _fail(case, task, failure, policy)


_AFTER: Mapping[Kind, Callable[[_Case, Task, Failure, Policy], None]] = {
    Kind.ERROR: _fail,
    Kind.HOPELESS: _give_up,
    Kind.CRASH: _suspect,
    Kind.MEMORY: _shrink,
    Kind.STUCK: _fail,
    Kind.LOST: _forgive,
}
"""By kind of failure: what it means for the shard, besides that it is tried again."""


@dataclass(slots=True)
class _Dispatch:
    pool: Pool
    policy: Policy
    clock: Callable[[], float]
    waiting: deque[_Case]
    running: dict[int, _Running] = field(default_factory=dict)
    paces: list[float] = field(default_factory=list)  # seconds a row of the shards that ended
    happened: Counter[str] = field(default_factory=Counter)
    _numbers: count[int] = field(default_factory=count)

    def fill(self) -> None:
        """Offer what waits until the pool takes no more; then look for a straggler."""
        while self.waiting:
            if not self._offer(self.waiting[0]):
                return
            self.waiting.popleft()
        self._double_straggler()

    def _offer(self, case: _Case, *, second: bool = False) -> bool:
        task = case.task(next(self._numbers), second=second)
        if not self.pool.offer(task):
            return False
        now = self.clock()
        case.attempts += 1
        self.running[task.number] = _Running(task, case, now, now, doubled=second)
        return True

    def _double_straggler(self) -> None:
        now = self.clock()
        runs = [
            Run(task=number, rows=one.case.shard.rows, done=one.rows, seconds=now - one.began)
            for number, one in self.running.items()
            if one.task.probe is None and not one.doubled
        ]
        late = straggler(runs, self.paces)
        if late is not None and self._offer(self.running[late].case, second=True):
            self.running[late].doubled = True
            self.happened["second attempt"] += 1

    def settle(self, outcome: Outcome) -> bool:
        """Take note of *outcome*; return whether its shard is committed by it, for the first time.

        Raises:
            ShardError: It may not be tried again.
        """
        ended = self.running.pop(outcome.task.number)
        case = ended.case
        case.attempts -= 1
        if case.committed:
            return False
        if outcome.failure is not None:
            self.happened[outcome.failure.kind.value] += 1
        if case.search is not None:
            self._probed(case, case.search, outcome)
        elif outcome.failure is None:
            case.committed = True
            self.paces.append((self.clock() - ended.began) / case.shard.rows)
            return True
        else:
            _AFTER[outcome.failure.kind](case, outcome.task, outcome.failure, self.policy)
        if case.attempts == 0:  # else the other attempt may still succeed
            self.waiting.append(case)
        return False

    def _probed(self, case: _Case, search: Search, outcome: Outcome) -> None:
        """Go on with the *search* in *case*; a probe that failed otherwise than by a death is repeated."""
        failure = outcome.failure
        if failure is not None and failure.kind is not Kind.CRASH:
            _AFTER[failure.kind](case, outcome.task, failure, self.policy)
            return
        search = search.after(died=failure is not None)
        if search.part is not None:
            case.search = search
            return
        case.search, case.deaths, case.searches = None, 0, case.searches + 1
        case.spared |= frozenset(search.found)
        if len(case.spared) > MOST_SPARED:
            raise ShardError(f"shard {case.shard}: more than {MOST_SPARED} rows of it end their worker's process")
        if not search.found:
            case.share *= 2  # no row alone does it: too much at a time, then

    def watch(self) -> int:
        """Return how many rows of running shards are through; abandon shards that are stuck."""
        now = self.clock()
        for number, rows in self.pool.progress().items():
            running = self.running.get(number)
            if running is not None and rows > running.rows:
                running.rows, running.moved = rows, now
        most = self.policy.shard_timeout
        for running in list(self.running.values()):
            if now - running.moved > self.policy.stall_timeout or (most is not None and now - running.began > most):
                running.moved = running.began = now
                self.pool.abandon(running.task)
        by_case: dict[int, int] = {}
        for running in self.running.values():
            if running.task.probe is None and not running.case.committed:
                by_case[id(running.case)] = max(by_case.get(id(running.case), 0), running.rows)
        return sum(by_case.values())

    @property
    def busy(self) -> bool:
        """Whether a shard is still to be committed; attempts that another one has outrun do not count."""
        return bool(self.waiting) or any(not running.case.committed for running in self.running.values())


def dispatch(
    pool: Pool,
    shards: Iterable[Shard],
    policy: Policy,
    *,
    on_committed: Callable[[Outcome], None],
    on_progress: Callable[[int], None],
    clock: Callable[[], float] = time.monotonic,
) -> Counter[str]:
    """Run all *shards* in *pool*; return how often what happened: failures by `Kind`, and ``second attempt``.

    Args:
        pool: Runs them. Attempts that were outrun may still be running there in the end.
        shards: To run.
        policy: How much to put up with.
        on_committed: Called once a shard when it is committed; may raise to end the job.
        on_progress: Called with the rows of running shards that are through.
        clock: Monotonic seconds.

    Raises:
        ShardError: A shard failed too often.
        PoolError: No worker is left.
    """
    state = _Dispatch(pool, policy, clock, deque(_Case(shard) for shard in shards))
    while state.busy:
        state.fill()
        for outcome in pool.wait(POLL):
            if state.settle(outcome):
                on_committed(outcome)
        on_progress(state.watch())
    return state.happened
