"""What runs tasks: the interface of a pool, and the pool that lives in this process.

Rules:
    * A pool never retries and never raises for a task: every task that was offered and taken comes
      back as one `Outcome`. What to do about it is `cluster.dispatch.loop`'s business.
    * `wait` returns within its timeout; `close` ends everything that the pool started.
    * A retried shard runs alone on its worker, so that a shard that kills workers takes no other with it.
    * No worker runs two attempts of one shard.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from cluster.errors import CommitLostError, PoolError
from cluster.pool.tasks import Failure, Outcome, Task

if TYPE_CHECKING:
    from cluster.worker.shard_worker import ShardWorker

__all__ = ["LocalPool", "Pool", "run_task"]

CLOSE_TIMEOUT = 10.0  # seconds


class Pool(Protocol):
    """Workers that take tasks.

    Attributes:
        remarks: What the user should know of the workers, a line each.
    """

    remarks: list[str]

    @property
    def workers(self) -> int:
        """How many workers there are, or were at most."""

    def offer(self, task: Task) -> bool:
        """Start *task* if there is room, alone on a worker if it asks for that; return whether it was taken."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended, waiting up to *timeout* seconds for the first.

        Raises:
            PoolError: No worker could be started, or none is left.
        """

    def progress(self) -> Mapping[int, int]:
        """Return by number of the running tasks how many rows are through, as far as is known."""

    def abandon(self, task: Task) -> None:
        """Give up on a *task* that is stuck; its outcome, a failure, comes from `wait`.

        Raises:
            PoolError: This pool cannot.
        """

    def close(self) -> None:
        """End all workers."""


def run_task(worker: ShardWorker, task: Task) -> Outcome:
    """Run *task* on *worker*; whatever happens is an outcome."""
    try:
        if task.probe is None:
            return Outcome(task=task, commit=worker.run(task.shard, spared=task.spared, share=task.share))
        worker.probe(task.shard, task.probe, spared=task.spared, share=task.share)
        return Outcome(task=task)
    except CommitLostError:
        return Outcome(task=task)
    except Exception as error:  # noqa: BLE001 - one shard's failure must not end the worker
        return Outcome(task=task, failure=Failure.of(error))


class LocalPool:
    """One worker in this process, whose tasks run in threads."""

    def __init__(self, worker: ShardWorker, workers: int = 1) -> None:
        """Take a task for each of the *workers* that the worker stands for, and one more to overlap."""
        self.workers = workers
        self.remarks: list[str] = []
        self._worker = worker
        self._running: dict[str, Task] = {}  # by shard
        self._threads: list[threading.Thread] = []
        self._done: queue.Queue[Outcome] = queue.Queue()

    def offer(self, task: Task) -> bool:
        """Start *task* in a thread if fewer than the slots are taken; alone or not, a crash is the end of all."""
        if len(self._running) > self.workers or task.shard.id in self._running:
            return False
        self._running[task.shard.id] = task
        # A daemon thread, because a hung read must not keep the process from ending.
        thread = threading.Thread(target=self._run, args=(task,), name=f"shard-{task.shard.id}", daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        return True

    def _run(self, task: Task) -> None:
        self._done.put(run_task(self._worker, task))

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        outcomes = []
        try:
            outcomes.append(self._done.get(timeout=timeout))
            while True:
                outcomes.append(self._done.get_nowait())
        except queue.Empty:
            for outcome in outcomes:
                del self._running[outcome.task.shard.id]
            return outcomes

    @property
    def tasks(self) -> set[int]:
        """The numbers of the tasks that run, or have ended and were not waited for."""
        return {task.number for task in self._running.values()}

    def progress(self) -> Mapping[int, int]:
        """Return how many rows of each running task are through."""
        through = self._worker.progress()
        return {task.number: through[shard] for shard, task in self._running.items() if shard in through}

    def abandon(self, task: Task) -> None:
        """Refuse: a thread cannot be ended from outside."""
        raise PoolError(f"shard {task.shard} is stuck, and without Ray a stuck worker cannot be replaced")

    def close(self) -> None:
        """Let running tasks end after their next batch, and wait for that a while."""
        self._worker.stop()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
