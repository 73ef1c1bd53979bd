"""What lives in the process of a Ray actor: one `ShardWorker`.

The driver imports this module, too, but runs no model: what a worker needs is loaded when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray

from cluster.lean import without_pandas
from cluster.models import JobModel
from cluster.pool.base import run_task
from cluster.pool.seats import NEEDS, Seat
from cluster.pool.shipping import Package, unpack
from cluster.pool.tasks import Failure, Outcome, Task
from cluster.worker.memory import keep_memory_low
from cluster.worker.spec import WorkerSpec
from runtime.providers import ALIASES

if TYPE_CHECKING:
    from cluster.worker.shard_worker import ShardWorker

__all__ = ["BatchWorker", "Shipment"]


@dataclass(frozen=True, slots=True)
class Shipment:
    """A model of the job on its way to a worker.

    Attributes:
        package: Of its artifact.
        prefix: Of the names of its columns.
        contents: The reference of the package's files, so that Ray does not bring them unasked; nothing where every
            worker sees the directory.
    """

    package: Package
    prefix: str
    contents: tuple[Any, ...]

    def open(self) -> JobModel:
        """Return the model, on this machine's disk and verified.

        Raises:
            ArtifactError: A file is not the one that the manifest pins.
        """

        def fetch() -> Mapping[str, bytes]:
            fetched: Mapping[str, bytes] = ray.get(self.contents[0]) if self.contents else {}
            return fetched

        return JobModel(artifact=unpack(self.package, fetch), prefix=self.prefix)


class BatchWorker:
    """The body of an actor; Ray calls its methods."""

    def __init__(self) -> None:
        without_pandas()
        keep_memory_low()
        self._worker: ShardWorker | None = None

    def start(self, shipments: Sequence[Shipment], spec: WorkerSpec, seat: Seat) -> dict[str, str] | Failure:
        """Build the worker of the models in *shipments*, which proves them; return what it runs on, or why not."""
        from cluster.worker.shard_worker import ShardWorker

        try:
            models = [shipment.open() for shipment in shipments]
            worker = ShardWorker(models, replace(spec, provider=seat.provider), seat.threads)
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
