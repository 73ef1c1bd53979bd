"""What lives in the process of a Ray actor: one `ShardWorker`.

The driver imports this module, too, but runs no model: what a worker needs is loaded when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from cluster.lean import without_pandas
from cluster.pool.base import run_task
from cluster.pool.seats import NEEDS, Seat
from cluster.pool.shipping import Package, unpack
from cluster.pool.tasks import Failure, Outcome, Task
from cluster.worker.memory import keep_memory_low
from cluster.worker.spec import WorkerSpec
from runtime.providers import ALIASES

if TYPE_CHECKING:
    from cluster.worker.shard_worker import ShardWorker

__all__ = ["BatchWorker"]


class BatchWorker:
    """The body of an actor; Ray calls its methods."""

    def __init__(self) -> None:
        without_pandas()
        keep_memory_low()
        self._worker: ShardWorker | None = None

    def start(
        self, package: Package, contents: Sequence[Any], spec: WorkerSpec, seat: Seat
    ) -> dict[str, str] | Failure:
        """Build the worker, which proves its provider; return what it runs on, or why not.

        Args:
            package: The artifact.
            contents: The reference of the package's files, in a list so that Ray does not bring them unasked; nothing
                where every worker sees the directory.
            spec: What the worker must know.
            seat: Its provider and threads.
        """
        from cluster.worker.shard_worker import ShardWorker

        def fetch() -> Mapping[str, bytes]:
            fetched: Mapping[str, bytes] = ray.get(contents[0]) if contents else {}
            return fetched

        try:
            worker = ShardWorker(unpack(package, fetch), replace(spec, provider=seat.provider), seat.threads)
        except Exception as error:  # noqa: BLE001 - it is reported, and the driver decides
            return Failure.of(error)
        if NEEDS[seat.kind] and worker.ran_on["provider"] == ALIASES["cpu"]:
            return Failure(text=worker.ran_on.get("fallback", "no execution provider passed the proof but the CPU's"))
        self._worker = worker
        return {**worker.ran_on, "node": ray.get_runtime_context().get_node_id()}

    def run(self, task: Task) -> Outcome:
        """Run *task*."""
        if self._worker is None:
            return Outcome(task=task, failure=Failure(text="the worker was not started"))
        return run_task(self._worker, task)

    def progress(self) -> dict[str, int]:
        """Return by shard that is running how many rows are through."""
        return {} if self._worker is None else self._worker.progress()
