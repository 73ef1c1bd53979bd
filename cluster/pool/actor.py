"""What lives in the process of a Ray actor: one `ShardWorker`.

The driver imports this module, too, but runs no model: what a worker needs is loaded when it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import ray

from cluster.errors import FilesMissingError
from cluster.pool.base import run_task
from cluster.pool.seats import NEEDS, Seat
from cluster.pool.shipment import Shipment
from cluster.pool.tasks import Failure, Outcome, Task
from cluster.worker.memory import MemoryKeeper, give_memory_back, keep_memory_low
from cluster.worker.spec import WorkerSpec
from runtime.providers import ALIASES

if TYPE_CHECKING:
    from cluster.pool.decode_actors import Reach
    from cluster.worker.elsewhere import Decoders
    from cluster.worker.shard_worker import ShardWorker

__all__ = ["BatchWorker"]


class BatchWorker:
    """The body of an actor; Ray calls its methods."""

    def __init__(self) -> None:
        keep_memory_low()
        self._memory = MemoryKeeper()
        self._worker: ShardWorker | None = None

    def start(
        self, shipments: Sequence[Shipment], spec: WorkerSpec, seat: Seat, reach: Reach | None
    ) -> dict[str, str] | Failure | None:
        """Build the worker of the models in *shipments*, which proves them.

        Returns:
            What it runs on, or why it does not; ``None`` if files of a model must come along.
        """
        from cluster.worker.shard_worker import ShardWorker

        try:
            models = [shipment.open() for shipment in shipments]
            others = None if reach is None else _decoders(reach)
            worker = ShardWorker(models, replace(spec, provider=seat.provider), seat.threads, others)
        except FilesMissingError:
            return None
        except Exception as error:  # noqa: BLE001 - it is reported, and the driver decides
            return Failure.of(error)
        if NEEDS[seat.kind] and worker.ran_on["provider"] == ALIASES["cpu"]:
            return Failure(text=worker.ran_on.get("fallback", "no execution provider passed the proof but the CPU's"))
        self._worker = worker
        give_memory_back()  # of the file, its graph and the weights as they were before they were packed
        return {**worker.ran_on, "node": ray.get_runtime_context().get_node_id()}

    def run(self, task: Task) -> Outcome:
        """Run *task*."""
        if self._worker is None:
            return Outcome(task=task, failure=Failure(text="the worker was not started"))
        outcome = run_task(self._worker, task)
        self._memory.shard_ended()
        return outcome

    def progress(self) -> dict[str, int]:
        """Return by shard that is running how many rows are through."""
        return {} if self._worker is None else self._worker.progress()


def _decoders(reach: Reach) -> Decoders:
    from cluster.pool.decode_actors import DecodeActors

    return DecodeActors(reach)
