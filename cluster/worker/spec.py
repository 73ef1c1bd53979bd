"""What a worker is told: it travels to other machines, so nothing is loaded for it that a driver does not have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from cluster.input.sources import Columns
from cluster.output.partitions import Partitioning
from cluster.storage.fetch import FETCH_LIMITS, FetchLimits

__all__ = ["BUFFERED", "WORKER_MEMORY", "Threads", "WorkerSpec"]

BUFFERED = 2  # batches between two stages
WORKER_MEMORY = 1024**3  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """How a worker uses its cores.

    Attributes:
        session: Threads within one inference.
        decode: Threads that decode and resize; 0: each that infers decodes its batch first.
        infer: Inferences at a time.
    """

    session: int = 1
    decode: int = 1
    infer: int = 1

    def times(self, workers: int) -> Threads:
        """Return what one worker has that stands for several: one session, used by several threads."""
        return Threads(session=self.session, decode=self.decode * workers, infer=self.infer * workers)

    def apart(self) -> Threads:
        """Return the same with threads that decode while others infer: where those do not infer on the cores."""
        return self if self.decode else replace(self, decode=self.infer)

    def __str__(self) -> str:
        decode = f"decode={self.decode} infer={self.infer}" if self.decode else f"decode+infer={self.infer}"
        return f"threads session={self.session} {decode}"

    @property
    def batches(self) -> int:
        """How many batches are in buffers at most: of a shard for each inference, and of one more that overlaps."""
        return (self.decode + 3 * BUFFERED) * (self.infer + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that a worker must know besides the artifact; it travels to other machines.

    Attributes:
        output: Where the output goes; see `OutputDirectory.open`.
        columns: What is read.
        kept: The fields of the kept columns.
        batch_size: Images an inference; ``None``: what the worker finds out to be fast (`cluster.worker.tuning`).
        threads: (within an inference, that decode) of each worker; ``None``: what it is given, and then finds out.
        provider: Execution provider, or ``auto``.
        decoder: What decodes, or is asked first: ``cpu``, ``auto``, or a name; see `cluster.worker.decoders`.
        fetch: How images are fetched that a column names by URL.
        partitioning: Of the output; in one folder if ``None``.
        memory: Bytes that the images in a worker's buffers may have; the model and libraries come on top.
    """

    output: str
    columns: Columns
    kept: tuple[pa.Field, ...]
    batch_size: int | None
    provider: str
    threads: tuple[int, int] | None = None
    decoder: str = "cpu"
    fetch: FetchLimits = FETCH_LIMITS
    partitioning: Partitioning | None = None
    memory: int = WORKER_MEMORY
