"""Figures of a running job for Prometheus, by way of Ray: every node's metrics endpoint has them.

Rules:
    * They exist only where Ray runs. A pool is measured from outside, so that no pool and no dispatcher knows.
    * What counts is what this driver committed; an attempt that lost its shard to another counts nowhere.
    * A metric names the job (the id that `vedette batch submit` gives it) and its model, and nothing that has
      more than a few values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cluster.output.records import Commit
from cluster.pool.base import Pool
from cluster.pool.tasks import Outcome, Task

__all__ = ["MeasuredPool", "Meter", "RayMeter"]


class Meter(Protocol):
    """What takes the figures."""

    def committed(self, commit: Commit) -> None:
        """Count a shard that was committed, with its rows and busy seconds."""

    def failed(self, kind: str) -> None:
        """Count a try that failed; its shard is tried again unless it may not."""

    def waiting(self, shards: int) -> None:
        """Note how many shards no worker has begun."""


class RayMeter:
    """Takes the figures to Ray, under names that begin with ``vedette_batch_`` (Ray puts ``ray_`` before them)."""

    def __init__(self, *, job: str, model: str) -> None:
        """Declare the metrics; needs a connection to Ray.

        Args:
            job: Its id.
            model: ``NAME@VERSION``.
        """
        from ray.util.metrics import Counter, Gauge

        tags = ("job", "model")

        def counter(name: str, description: str, *more: str) -> Counter:
            made = Counter(f"vedette_batch_{name}", description, tag_keys=(*tags, *more))
            made.set_default_tags({"job": job, "model": model})
            return made

        self._rows = counter("rows", "Rows of committed shards.")
        self._bad = counter("bad_rows", "Rows in quarantine, by reason.", "reason")
        self._shards = counter("shards_committed", "Shards that were committed.")
        self._failures = counter("shards_retried", "Tries of shards that failed, by kind.", "kind")
        self._seconds = counter("stage_seconds", "Busy seconds of workers, by stage.", "stage")
        self._waiting = Gauge("vedette_batch_queue_depth", "Shards that no worker has begun.", tag_keys=tags)
        self._waiting.set_default_tags({"job": job, "model": model})

    def committed(self, commit: Commit) -> None:
        """Count a shard; see `Meter`."""
        self._shards.inc()
        self._rows.inc(commit.rows)
        for reason, count in commit.reasons.items():
            self._bad.inc(count, {"reason": reason})
        for stage, seconds in commit.seconds.items():
            if seconds > 0:  # Ray refuses to count nothing
                self._seconds.inc(seconds, {"stage": stage})

    def failed(self, kind: str) -> None:
        """Count a try; see `Meter`."""
        self._failures.inc(tags={"kind": kind})

    def waiting(self, shards: int) -> None:
        """Note the depth of the queue; see `Meter`."""
        self._waiting.set(shards)


class MeasuredPool:
    """A pool whose tasks a meter counts; everything else is the *pool*'s."""

    def __init__(self, pool: Pool, meter: Meter, shards: int) -> None:
        """Measure *pool*, which so many *shards* wait for."""
        self._pool, self._meter, self._shards = pool, meter, shards
        self._begun: set[str] = set()
        self._committed: set[str] = set()
        self.remarks = pool.remarks
        meter.waiting(shards)

    @property
    def workers(self) -> int:
        """How many workers there are, or were at most."""
        return self._pool.workers

    def offer(self, task: Task) -> bool:
        """Offer *task* to the pool."""
        taken = self._pool.offer(task)
        if taken:
            self._begun.add(task.shard.id)
            self._note_waiting()
        return taken

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended, counted."""
        outcomes = self._pool.wait(timeout)
        for outcome in outcomes:
            self._count(outcome)
        if outcomes:
            self._note_waiting()
        return outcomes

    def _count(self, outcome: Outcome) -> None:
        shard = outcome.task.shard.id
        if outcome.failure is not None:
            self._begun.discard(shard)
            self._meter.failed(outcome.failure.kind)
        elif outcome.commit is not None:
            self._committed.add(shard)
            self._meter.committed(outcome.commit)

    def _note_waiting(self) -> None:
        self._meter.waiting(self._shards - len(self._begun | self._committed))

    def progress(self) -> Mapping[int, int]:
        """Return how far the running tasks are."""
        return self._pool.progress()

    def abandon(self, task: Task) -> None:
        """Give up on *task*."""
        self._pool.abandon(task)

    def close(self) -> None:
        """End all workers."""
        self._pool.close()
