"""What a job will take, from a probe of some of its rows: seconds, and money.

Rules:
    * The probe reads, decodes and infers rows of the job itself on this machine, as `--local` would; it writes
      nothing.
    * Its rows come from shards that are spread over what is not committed yet. They are taken as they are: those
      that the filter leaves out count, too, for they do in the job.
    * What was measured once is not extrapolated but by the number of rows and of workers: each worker elsewhere
      is taken for one like those here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.dispatch.crashes import Part
from cluster.plan import Shard
from cluster.pool.seats import divide, machine_cores, parse_workers
from cluster.worker.shard_worker import ShardWorker

if TYPE_CHECKING:
    from cluster.planning import Job

__all__ = ["PROBE_ROWS", "Estimate", "Probe", "dry_run", "estimate", "probe_parts"]

PROBE_ROWS = 200
WARM_UP_ROWS = 16
PLACES = 8  # that they come from


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a probe measured.

    Attributes:
        rows: That went through, the filtered and the bad ones too.
        seconds: That they took together, once the model was ready.
        start_seconds: Until the model was ready: proof, session, first batches.
        workers: How many ran here at a time.
        ran_on: See `ShardWorker.ran_on`.
        providers: By variant and execution provider: why it may run here, or not.
    """

    rows: int
    seconds: float
    start_seconds: float
    workers: int
    ran_on: dict[str, str]
    providers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the rest of a job will take.

    Attributes:
        rows: That are not committed yet.
        workers: How many share them.
        rows_per_second: Of all workers.
        seconds: With the start.
        worker_hours: Of all workers.
        cost: In the currency of the price; ``None`` without one.
    """

    rows: int
    workers: int
    rows_per_second: float
    seconds: float
    worker_hours: float
    cost: float | None


def probe_parts(shards: Sequence[Shard], rows: int = PROBE_ROWS) -> list[tuple[Shard, Part]]:
    """Return about *rows* rows, the first of some of *shards* (at least one): each shard at most once."""
    places = min(PLACES, len(shards))
    chosen = [shards[len(shards) * place // places] for place in range(places)]
    left, parts = rows, []
    for done, shard in enumerate(chosen):
        taken = min(shard.rows, -(-left // (places - done)))
        left -= taken
        parts.append((shard, (0, taken)))
    return [(shard, part) for shard, part in parts if part[1]]


def estimate(measured: Probe, rows: int, workers: int, cost_per_hour: float | None) -> Estimate:
    """Return what *rows* take on *workers* that are each as fast as those of the probe.

    Args:
        measured: At least one row of it.
        rows: To run.
        workers: That will run them.
        cost_per_hour: Of one worker.
    """
    rate = measured.rows / measured.seconds * workers / measured.workers
    seconds = measured.start_seconds + rows / rate
    hours = workers * seconds / 3600
    return Estimate(
        rows=rows,
        workers=workers,
        rows_per_second=round(rate, 2),
        seconds=round(seconds, 3),
        worker_hours=round(hours, 6),
        cost=None if cost_per_hour is None else round(hours * cost_per_hour, 4),
    )


def _probe(job: Job, pending: Sequence[Shard]) -> Probe:
    """Run some rows of *pending* (at least one shard) on this machine.

    Raises:
        VedetteError: As `ShardWorker` and `ShardWorker.probe`.
    """
    counts = parse_workers(job.options.workers)
    local = counts.get("cpu") if counts and job.options.local else None
    division = divide(machine_cores(), local)
    parts = probe_parts(pending)
    workers = min(division.workers, len(parts))
    begun = time.monotonic()
    worker = ShardWorker(job.models, job.spec, division.threads.times(workers))
    first, (start, stop) = parts[0]
    worker.probe(first, (start, min(stop, WARM_UP_ROWS)))  # caches and memory pools fill
    ready = time.monotonic()
    with ThreadPoolExecutor(workers, thread_name_prefix="probe") as executor:
        list(executor.map(lambda one: worker.probe(*one), parts))
    return Probe(
        rows=sum(stop - start for _, (start, stop) in parts),
        seconds=max(time.monotonic() - ready, 1e-6),
        start_seconds=ready - begun,
        workers=workers,
        ran_on=worker.ran_on,
        providers=worker.providers,
    )


def dry_run(job: Job, cost_per_hour: float | None) -> dict[str, Any]:
    """Return the plan of *job*, and what the rest of it will take, as plain values for JSON; nothing is written."""
    committed = job.output.committed()
    pending = [shard for shard in job.shards if shard.id not in committed]
    plan = job.describe()
    if not pending:
        return plan
    measured = _probe(job, pending)
    counts = parse_workers(job.options.workers)
    workers = min(sum(counts.values()), len(pending)) if counts else measured.workers
    expected = estimate(measured, sum(shard.rows for shard in pending), workers, cost_per_hour)
    return {
        **plan,
        "variant": measured.ran_on["variant"],
        "provider": measured.ran_on["provider"],
        "providers": measured.providers,
        "probe": {"rows": measured.rows, "seconds": round(measured.seconds, 3), "workers": measured.workers},
        "estimate": asdict(expected),
    }
