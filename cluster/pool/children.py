"""A pool whose workers are child processes of this one: for long jobs without Ray, and for shards that kill.

Rules:
    * Tasks go to a child through a pipe, outcomes and progress come back (`cluster.pool.child`). A child that dies is a
      crash of the tasks it ran, and is replaced.
    * A child ends when this process does, however that ends.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait

from cluster.errors import PoolError
from cluster.models import JobModel
from cluster.pool.tasks import Failure, Kind, Outcome, Progress, Task
from cluster.worker.spec import Threads, WorkerSpec

__all__ = ["ChildPool"]

CLOSE_TIMEOUT = 10.0  # seconds
MOST_BAD_STARTS = 3  # children in a row that die while they start


@dataclass(slots=True, eq=False)
class _Child:
    """One child as this process sees it."""

    pipe: Connection
    process: subprocess.Popen[bytes]
    most: int  # tasks at a time
    ready: bool = False
    tasks: dict[int, Task] = field(default_factory=dict)
    progress: Mapping[str, int] = field(default_factory=dict)  # by shard

    def has_room(self, task: Task) -> bool:
        running = self.tasks.values()
        most = 1 if task.alone or any(other.alone for other in running) else self.most
        return self.ready and len(running) < most and all(other.shard.id != task.shard.id for other in running)


class ChildPool:
    """Workers in child processes, whose tasks run in threads there."""

    def __init__(
        self,
        models: Sequence[JobModel],
        spec: WorkerSpec,
        threads: Threads,
        children: int = 1,
        remarks: Sequence[str] = (),
    ) -> None:
        """Begin to start the *children*; each takes a task for each inference that it runs at a time, and one more.

        Args:
            models: That answer.
            spec: What workers must know.
            threads: Of each child.
            children: How many.
            remarks: What the user should know of them.
        """
        self.remarks = list(remarks)
        self.workers = children * threads.infer
        self._call = ([(model.artifact.root, model.prefix) for model in models], spec, threads)
        self._most = threads.infer + 1
        self._bad_starts = 0
        self._outcomes: list[Outcome] = []
        self._children = [self._spawned() for _ in range(children)]

    def _spawned(self) -> _Child:
        ours, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "cluster.pool.child", str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        with suppress(OSError):  # it died; `wait` sees it
            ours.send(self._call)
        return _Child(ours, process, self._most)

    @property
    def ready(self) -> bool:
        """Whether all children can take tasks."""
        return all(child.ready for child in self._children)

    def offer(self, task: Task) -> bool:
        """Send *task* to the least busy child that is ready and has room."""
        free = [child for child in self._children if child.has_room(task)]
        if not free:
            return False
        child = min(free, key=lambda child: len(child.tasks))
        with suppress(OSError):  # it died; `wait` sees it
            child.pipe.send(task)
        child.tasks[task.number] = task
        return True

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        if not self._outcomes:
            wait([child.pipe for child in self._children], timeout)
        for child in list(self._children):
            try:
                while child.pipe.poll():
                    self._take(child, child.pipe.recv())
            except (EOFError, OSError):
                self._died(child, "its process died", Kind.CRASH)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _take(self, child: _Child, message: object) -> None:
        match message:
            case Outcome(task=task):
                del child.tasks[task.number]
                self._outcomes.append(message)
            case Progress(rows=rows):
                child.progress = rows
            case Failure(text=text):
                raise PoolError(f"no worker could be started: {text}")
            case dict():
                child.ready, self._bad_starts = True, 0

    def _died(self, child: _Child, why: str, kind: Kind) -> None:
        """Replace *child*; its tasks ended by *kind* of failure."""
        _end(child)
        if kind is Kind.CRASH and child.process.returncode:
            why = f"{why} ({_exit(child.process.returncode)})"
        if not child.ready:
            self._bad_starts += 1
            if self._bad_starts >= MOST_BAD_STARTS:
                raise PoolError(f"no worker could be started: {why}")
        self._outcomes += [Outcome(task=task, failure=Failure(text=why, kind=kind)) for task in child.tasks.values()]
        self._children[self._children.index(child)] = self._spawned()

    def progress(self) -> Mapping[int, int]:
        """Return how many rows of each running task are through, as of the last report."""
        return {
            number: child.progress.get(task.shard.id, 0)
            for child in self._children
            for number, task in child.tasks.items()
        }

    def abandon(self, task: Task) -> None:
        """Kill the child that runs *task*, and replace it; what else it ran is lost without a fault."""
        for child in [child for child in self._children if task.number in child.tasks]:
            text = "it was stuck, and its worker was killed"
            failure = Failure(text=text, kind=Kind.STUCK)
            self._outcomes.append(Outcome(task=child.tasks.pop(task.number), failure=failure))
            child.process.kill()
            self._died(child, "its worker was killed for another shard", Kind.LOST)

    def close(self) -> None:
        """End all children."""
        for child in self._children:
            child.pipe.close()  # that is how they know
            if not child.ready:
                child.process.kill()  # it would look at its pipe in a second
        for child in self._children:
            _end(child)


def _end(child: _Child) -> None:
    """Wait until *child* has ended by itself, but not for long."""
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(CLOSE_TIMEOUT)
    child.process.kill()
    child.process.wait()
    child.pipe.close()


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
