"""A batch job from plan to summary: resume, run, finish.

Rules:
    * Committed shards are not read again; if all are, no worker is started.
    * The bound on bad rows counts those of earlier runs, too.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from cluster.dispatch.loop import Policy, dispatch
from cluster.errors import OutputError, StoppedError, TooManyBadRowsError
from cluster.jobs.request import job_id
from cluster.output.partitions import check_number
from cluster.plan import Shard
from cluster.planning import BatchOptions, Job, plan_job
from cluster.pool.base import LocalPool, Pool
from cluster.pool.marker import marker_of, marking
from cluster.pool.seats import divide, machine_cores, parse_workers, seats
from cluster.pool.tasks import Outcome
from cluster.report import Summary, Tally
from runtime.home import Home
from runtime.terminal import Progress, progress

if TYPE_CHECKING:
    from cluster.pool.children import ChildPool
    from cluster.worker.spec import Threads

__all__ = ["run_batch"]

DIED = "an earlier run was killed: this one had its shards in a process apart"


def run_batch(options: BatchOptions) -> Summary:
    """Run the job that *options* ask for to its end, or go on with it.

    Raises:
        VedetteError: As `plan_job`; and the errors of `cluster.errors` while it runs. What was
            committed stays, and the same call goes on with the rest.
    """
    started = time.monotonic()
    job = plan_job(options)
    job.output.claim(job.record)
    tally = Tally()
    commits = job.output.commits()
    done = [commits[shard.id] for shard in job.shards if shard.id in commits]
    tally.resume(done)
    _check_bounds(job, tally)
    pending = [shard for shard in job.shards if shard.id not in commits]
    workers, working = _run_pending(job, pending, tally) if pending else (0, 0.0)

    from cluster.ending import end_job  # only now: no shard waits for what makes a report

    return end_job(job, tally, workers=workers, working=working, started=started)


def _run_pending(job: Job, pending: list[Shard], tally: Tally) -> tuple[int, float]:
    """Run the *pending* shards; return the number of workers and the seconds that shards were running."""
    opener = _local_pool if job.options.local else _ray_pool
    policy = Policy(
        max_retries=job.options.max_retries,
        stall_timeout=job.options.stall_timeout,
        shard_timeout=job.options.shard_timeout,
    )
    rows = sum(shard.rows for shard in pending)
    with _StopOnSignals(job) as signals, opener(job, pending, tally) as pool:
        signals.install()  # again, because Ray took SIGTERM for itself
        with progress(rows, "batch", "rows") as display:
            begun = time.monotonic()
            follower = _Follower(job, tally, display)
            happened = dispatch(pool, pending, policy, on_committed=follower.committed, on_progress=follower.running)
            tally.happened.update(happened)
            tally.remarks += pool.remarks
            return pool.workers, time.monotonic() - begun


@contextmanager
def _local_pool(job: Job, pending: Sequence[Shard], tally: Tally) -> Iterator[Pool]:
    from cluster.pool.growing import GrowingPool
    from cluster.worker.shard_worker import ShardWorker  # which loads what runs models; with Ray the driver runs none

    tally.up = time.monotonic()
    counts = parse_workers(job.options.workers)
    division = divide(machine_cores(), counts["cpu"] if counts else None)
    workers = min(division.workers, len(pending))
    threads = division.threads.times(workers)

    def in_children(threads: Threads, children: int = 1, remarks: Sequence[str] = ()) -> ChildPool:
        from cluster.pool.children import ChildPool  # which few jobs need

        return ChildPool(job.models, job.spec, threads, children, remarks)

    with marking(marker_of(job.output.uri, Home.from_environment().cache)) as died:
        pool: Pool
        if died:
            pool = in_children(threads, remarks=[DIED])
        else:
            worker = ShardWorker(job.models, job.spec, threads)
            pool = here = LocalPool(worker, workers=workers)
            if worker.on_cores and workers > 1:
                rows = sum(shard.rows for shard in pending)
                pool = GrowingPool(here, lambda: in_children(division.threads, workers), rows)
            del worker, here  # a pool that has grown needs neither
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def _ray_pool(job: Job, pending: Sequence[Shard], tally: Tally) -> Iterator[Pool]:
    from cluster.pool.metrics import MeasuredPool, RayMeter
    from cluster.pool.ray_pool import RayPool
    from cluster.pool.session import ray_session

    counts = parse_workers(job.options.workers)
    with ray_session(job.options.address, machine_cores()) as ours:
        tally.up = time.monotonic()
        pool = RayPool(
            job.models,
            job.spec,
            lambda nodes, refused: seats(nodes, counts, job.options.provider, len(pending), refused, sharing=ours),
            decoders=job.options.decode_actors,
        )
        meter = RayMeter(job=job_id(job.output.uri), model=job.record.model)
        try:
            yield MeasuredPool(pool, meter, len(pending))
        finally:
            pool.close()


class _Follower:
    """Counts what is committed, shows it, and ends the job at too many bad rows."""

    def __init__(self, job: Job, tally: Tally, display: Progress) -> None:
        self._job, self._tally, self._display = job, tally, display
        self._committed_rows = self._shown = 0

    def committed(self, outcome: Outcome) -> None:
        """Count the commit of a shard, ours or another driver's."""
        commit = outcome.commit or self._job.output.commit_of(outcome.task.shard.id)
        if commit is None:
            raise OutputError(f"{self._job.output.uri}: the commit of shard {outcome.task.shard} is gone")
        self._tally.add(commit, ours=outcome.commit is not None)
        self._tally.first = self._tally.first or time.monotonic()
        self._committed_rows += commit.rows
        _check_bounds(self._job, self._tally)
        self.running(0)

    def running(self, rows: int) -> None:
        """Show *rows* of running shards beside the committed ones; the display never goes back."""
        now = max(self._shown, self._committed_rows + rows)
        bad = sum(self._tally.bad.values())
        self._display.advance(now - self._shown, **({"bad": bad} if bad else {}))
        self._shown = now


def _check_bounds(job: Job, tally: Tally) -> None:
    """Raise if there are more bad rows, or more partitions, than *job* may have."""
    _check_bad_rows(job, tally)
    if job.record.partition_by is not None:
        check_number(job.record.partition_by.name, len(tally.partitions), job.options.max_partitions)


def _check_bad_rows(job: Job, tally: Tally) -> None:
    bound = job.options.max_bad_rows
    bad = sum(tally.bad.values())
    if bound is not None and bad > bound:
        reasons = ", ".join(f"{count} {reason}" for reason, count in tally.bad.most_common())
        raise TooManyBadRowsError(
            f"{bad} bad rows ({reasons}), more than --max-bad-rows {bound}; they are listed in "
            f"{job.output.store.where('quarantine')}. Run the same command with a larger bound to go on"
        )


class _StopOnSignals:
    """Turns SIGINT and SIGTERM into `StoppedError` while inside, so that everything is ended in order."""

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, job: Job) -> None:
        self._job = job
        self._before = {number: signal.getsignal(number) for number in self.HANDLED}

    def __enter__(self) -> Self:
        self.install()
        return self

    def install(self) -> None:
        """Handle the signals from here on; only the main thread can."""
        self._set(dict.fromkeys(self.HANDLED, self._stop))

    def _set(self, handlers: Mapping[signal.Signals, Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._set(dict.fromkeys(self.HANDLED, signal.SIG_IGN))  # a second signal must not break the end
        done = self._job.output.committed() & {shard.id for shard in self._job.shards}
        raise StoppedError(
            f"stopped by {signal.Signals(number).name}: {len(done)} of {len(self._job.shards)} shards are "
            "committed; run the same command again to go on"
        )
