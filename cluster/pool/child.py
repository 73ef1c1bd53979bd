"""The program of a child process of `cluster.pool.children`: one worker, a thread a task, one that reports progress.

python -m cluster.pool.child FD: the descriptor of the child's end of the pipe. What to build the worker of comes first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from cluster.models import JobModel
from cluster.pool.base import run_task
from cluster.pool.tasks import Failure, Progress, Task
from cluster.worker.memory import MemoryKeeper, give_memory_back, keep_memory_low
from runtime.artifact import Artifact

if TYPE_CHECKING:
    from cluster.worker.shard_worker import ShardWorker

__all__ = ["main"]

REPORT = 1.0  # seconds from one report of progress to the next


class _Server:
    def __init__(self, pipe: Connection, worker: ShardWorker) -> None:
        self._pipe, self._worker, self._memory = pipe, worker, MemoryKeeper()
        self._sending = threading.Lock()

    def _send(self, message: object) -> None:
        with self._sending, suppress(BrokenPipeError):  # `serve` sees the end
            self._pipe.send(message)

    def serve(self) -> None:
        """Run tasks until the pipe ends."""
        threading.Thread(target=self._report, daemon=True).start()
        while True:
            try:
                task: Task = self._pipe.recv()
            except (EOFError, ConnectionError):
                os._exit(0)  # threads may hang; whatever they wrote is not committed
            threading.Thread(target=self._run, args=(task,), daemon=True).start()

    def _run(self, task: Task) -> None:
        self._send(run_task(self._worker, task))
        self._memory.shard_ended()

    def _report(self) -> None:
        while True:
            threading.Event().wait(REPORT)
            self._send(Progress(rows=self._worker.progress()))


def main() -> None:
    """Build the worker, say what it runs on or why it does not, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us in order
    keep_memory_low()
    from cluster.worker.shard_worker import ShardWorker

    with Connection(int(sys.argv[1])) as pipe:
        models, spec, threads = pipe.recv()
        try:
            opened = [JobModel(artifact=Artifact.open(root), prefix=prefix) for root, prefix in models]
            worker = ShardWorker(opened, spec, threads)
        except Exception as error:  # noqa: BLE001 - it is reported, and the parent raises
            pipe.send(Failure.of(error))
            return
        pipe.send(worker.ran_on)
        give_memory_back()  # of the file, its graph and the weights as they were before they were packed
        _Server(pipe, worker).serve()


if __name__ == "__main__":
    main()
