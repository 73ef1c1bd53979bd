"""Drive shards through a pool: retries, stalls, progress. Pure of Ray, of disks and (by argument) of the clock.

Rules:
    * A shard that fails is tried again, at the end of the queue and alone on a worker, up to
      ``max_retries`` times; then the job fails and names the shard and its last failure.
    * A failure that another try would meet again (`Failure.hopeless`) ends the job at once.
    * A shard without progress for ``stall_timeout`` seconds is abandoned, which is a failure of it.
    * A shard that another driver committed counts like our own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cluster.errors import ShardError
from cluster.plan import Shard
from cluster.pool import Outcome, Pool

__all__ = ["Policy", "dispatch"]

POLL = 0.5  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How much a job puts up with.

    Attributes:
        max_retries: Further tries of a shard after its first.
        stall_timeout: Seconds that a running shard may make no progress.
    """

    max_retries: int = 3
    stall_timeout: float = 300.0


@dataclass(slots=True)
class _Running:
    shard: Shard
    failures: int
    moved: float  # when it last made progress
    rows: int = 0


@dataclass(slots=True)
class _Dispatch:
    pool: Pool
    policy: Policy
    clock: Callable[[], float]
    waiting: deque[tuple[Shard, int]]  # and its failures so far
    running: dict[str, _Running] = field(default_factory=dict)

    def fill(self) -> None:
        """Offer what waits until the pool takes no more."""
        while self.waiting:
            shard, failures = self.waiting[0]
            if not self.pool.offer(shard, alone=failures > 0):
                return
            self.waiting.popleft()
            self.running[shard.id] = _Running(shard, failures, self.clock())

    def settle(self, outcome: Outcome) -> bool:
        """Take note of *outcome*; return whether its shard is committed now.

        Raises:
            ShardError: It may not be tried again.
        """
        ended = self.running.pop(outcome.shard.id)
        if outcome.failure is None:
            return True
        failures = ended.failures + 1
        if outcome.failure.hopeless:
            raise ShardError(f"shard {ended.shard} failed: {outcome.failure.text}")
        if failures > self.policy.max_retries:
            raise ShardError(f"shard {ended.shard} failed {failures} times; the last time: {outcome.failure.text}")
        self.waiting.append((ended.shard, failures))
        return False

    def watch(self) -> int:
        """Return how many rows of running shards are through; abandon shards that make no progress."""
        now = self.clock()
        for shard_id, rows in self.pool.progress().items():
            running = self.running.get(shard_id)
            if running is not None and rows > running.rows:
                running.rows, running.moved = rows, now
        for running in self.running.values():
            if now - running.moved > self.policy.stall_timeout:
                running.moved = now
                self.pool.abandon(running.shard)
        return sum(running.rows for running in self.running.values())


def dispatch(
    pool: Pool,
    shards: Iterable[Shard],
    policy: Policy,
    *,
    on_committed: Callable[[Outcome], None],
    on_progress: Callable[[int], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run all *shards* in *pool*.

    Args:
        pool: Runs them.
        shards: To run.
        policy: How much to put up with.
        on_committed: Called once a shard when it is committed; may raise to end the job.
        on_progress: Called with the rows of running shards that are through.
        clock: Monotonic seconds.

    Raises:
        ShardError: A shard failed too often.
        PoolError: No worker is left.
    """
    state = _Dispatch(pool, policy, clock, deque((shard, 0) for shard in shards))
    while state.waiting or state.running:
        state.fill()
        for outcome in pool.wait(POLL):
            if state.settle(outcome):
                on_committed(outcome)
        on_progress(state.watch())
