"""A pool whose one worker is a child process of this one: for jobs whose shards have killed their process.

Rules:
    * ``--local`` runs shards in its own process, which is the fastest to start; a picture at which a
      decoder crashes takes the job along. A marker outlives such a death (`cluster.pool.marker`), and the
      same command again runs its shards in a child process, where the row is searched and quarantined.
    * Tasks go to the child through a pipe, outcomes and progress come back. A child that dies is a
      crash of the tasks it ran, and is replaced.
    * The child ends when this process does, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import PoolError
from cluster.models import JobModel
from cluster.pool.base import run_task
from cluster.pool.tasks import Failure, Kind, Outcome, Task
from cluster.worker.memory import keep_memory_low
from cluster.worker.spec import Threads, WorkerSpec
from runtime.artifact import Artifact

if TYPE_CHECKING:
    from cluster.worker.shard_worker import ShardWorker

__all__ = ["ApartPool"]

POLL_PROGRESS = 1.0  # seconds
CLOSE_TIMEOUT = 10.0  # seconds
MOST_BAD_STARTS = 3  # children in a row that die while they start

Ready = dict[str, str]
Progress = dict[str, int]


@dataclass(frozen=True, slots=True)
class _Progress:
    rows: Progress  # by shard


class _Child:
    """The child's side: a thread a task, and one that says how far they are."""

    def __init__(self, pipe: Connection, worker: ShardWorker) -> None:
        self._pipe, self._worker = pipe, worker
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        with self._sending, suppress(BrokenPipeError):  # `serve` sees the end
            self._pipe.send(message)

    def serve(self) -> None:
        """Run tasks until the pipe ends."""
        threading.Thread(target=self._report, daemon=True).start()
        while True:
            try:
                task: Task = self._pipe.recv()
            except EOFError:
                os._exit(0)  # threads may hang; whatever they wrote is not committed
            threading.Thread(target=lambda task=task: self.send(run_task(self._worker, task)), daemon=True).start()

    def _report(self) -> None:
        while True:
            threading.Event().wait(POLL_PROGRESS)
            self.send(_Progress(self._worker.progress()))


def _main(pipe: Connection, models: Sequence[tuple[Path, str]], spec: WorkerSpec, threads: Threads) -> None:
    keep_memory_low()
    from cluster.worker.shard_worker import ShardWorker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us in order
    try:
        opened = [JobModel(artifact=Artifact.open(root), prefix=prefix) for root, prefix in models]
        worker = ShardWorker(opened, spec, threads)
    except Exception as error:  # noqa: BLE001 - it is reported, and the parent raises
        pipe.send(Failure.of(error))
        return
    pipe.send(worker.ran_on)
    _Child(pipe, worker).serve()


class ApartPool:
    """One worker in a child process, whose tasks run in threads there."""

    def __init__(self, models: Sequence[JobModel], spec: WorkerSpec, threads: Threads, workers: int = 1) -> None:
        """Begin to start the child, which takes a task for each of the *workers* it stands for, and one to overlap."""
        self.workers = workers
        self.remarks = ["an earlier run was killed: this one had its shards in a process apart"]
        self._call = ([(model.artifact.root, model.prefix) for model in models], spec, threads)
        self._tasks: dict[int, Task] = {}
        self._progress: Progress = {}
        self._bad_starts = 0
        self._outcomes: list[Outcome] = []
        self._spawn()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, *self._call), daemon=True)
        self._process.start()
        theirs.close()
        self._ran_on: Ready = {}

    def offer(self, task: Task) -> bool:
        """Send *task* to the child if it is ready and there is room."""
        running = self._tasks.values()
        most = 1 if task.alone or any(other.alone for other in running) else self.workers + 1
        if not self._ran_on or len(self._tasks) >= most or any(other.shard.id == task.shard.id for other in running):
            return False
        with suppress(OSError):  # it died; `wait` sees it
            self._pipe.send(task)
        self._tasks[task.number] = task
        return True

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        if not self._outcomes:
            wait([self._pipe, self._process.sentinel], timeout)
        try:
            while self._pipe.poll():
                self._take(self._pipe.recv())
        except (EOFError, OSError):
            self._died("its process died", Kind.CRASH)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _take(self, message: object) -> None:
        match message:
            case Outcome(task=task):
                del self._tasks[task.number]
                self._progress.pop(task.shard.id, None)
                self._outcomes.append(message)
            case _Progress(rows=rows):
                self._progress = rows
            case Failure(text=text):
                raise PoolError(f"no worker could be started: {text}")
            case dict():
                self._ran_on, self._bad_starts = message, 0

    def _died(self, why: str, kind: Kind) -> None:
        """Replace the child; its tasks ended by *kind* of failure."""
        self._process.join(CLOSE_TIMEOUT)
        if kind is Kind.CRASH and self._process.exitcode:
            why = f"{why} ({_exit(self._process.exitcode)})"
        if not self._ran_on:
            self._bad_starts += 1
            if self._bad_starts >= MOST_BAD_STARTS:
                raise PoolError(f"no worker could be started: {why}")
        self._outcomes += [Outcome(task=task, failure=Failure(text=why, kind=kind)) for task in self._tasks.values()]
        self._tasks, self._progress = {}, {}
        self._pipe.close()
        self._spawn()

    def progress(self) -> Mapping[int, int]:
        """Return how many rows of each running task are through, as of the last report."""
        return {number: self._progress.get(task.shard.id, 0) for number, task in self._tasks.items()}

    def abandon(self, task: Task) -> None:
        """Kill the child, and replace it; what else it ran is lost without a fault."""
        text = "it was stuck, and its worker was killed"
        self._outcomes.append(Outcome(task=self._tasks.pop(task.number), failure=Failure(text=text, kind=Kind.STUCK)))
        self._process.kill()
        self._died("its worker was killed for another shard", Kind.LOST)

    def close(self) -> None:
        """End the child."""
        self._pipe.close()
        self._process.join(CLOSE_TIMEOUT)
        self._process.kill()
        self._process.join()


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
