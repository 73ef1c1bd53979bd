"""What runs shards: the interface of a pool, and the pool that lives in this process.

Rules:
    * A pool never retries and never raises for a shard: every shard that was offered and taken comes
      back as one `Outcome`. What to do about it is `cluster.dispatch`'s business.
    * `wait` returns within its timeout; `close` ends everything that the pool started.
    * A retried shard runs alone on its worker, so that a shard that kills workers takes no other with it.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import CommitLostError, InputChangedError, InputError, OutputError, PoolError
from cluster.plan import Shard
from cluster.records import Commit
from cluster.worker import ShardWorker
from runtime.errors import VedetteError

__all__ = ["Failure", "LocalPool", "Outcome", "Pool", "run_shard"]

HOPELESS: tuple[type[Exception], ...] = (InputChangedError, InputError, OutputError)
"""Errors that another try would meet again."""

CLOSE_TIMEOUT = 10.0  # seconds
NO_ROOM: Mapping[int, str] = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "read-only file system",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a shard failed, in a form that crosses process borders.

    Attributes:
        text: One line.
        hopeless: Whether another try would fail the same way.
    """

    text: str
    hopeless: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that *error* is; a full or read-only disk is hopeless."""
        if isinstance(error, OSError) and error.errno is not None and error.errno in NO_ROOM:
            return cls(text=f"{NO_ROOM[error.errno]}: {error.filename}", hopeless=True)
        known = isinstance(error, VedetteError)
        text = " ".join(str(error).split())
        return cls(
            text=text if known and text else f"{type(error).__name__}: {text}", hopeless=isinstance(error, HOPELESS)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a shard: committed, lost to another attempt (both ``None``), or failed."""

    shard: Shard
    commit: Commit | None = None
    failure: Failure | None = None


class Pool(Protocol):
    """Workers that take shards."""

    def offer(self, shard: Shard, *, alone: bool = False) -> bool:
        """Start *shard* if there is room, *alone* on a worker if asked for; return whether it was taken."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended, waiting up to *timeout* seconds for the first.

        Raises:
            PoolError: No worker could be started, or none is left.
        """

    def progress(self) -> Mapping[str, int]:
        """Return by id of the running shards how many rows are through, as far as is known."""

    def abandon(self, shard: Shard) -> None:
        """Give up on a *shard* that makes no progress; its outcome, a failure, comes from `wait`.

        Raises:
            PoolError: This pool cannot.
        """

    def describe(self) -> list[Mapping[str, str]]:
        """Return what each worker runs on."""

    def close(self) -> None:
        """End all workers."""


def run_shard(worker: ShardWorker, shard: Shard) -> Outcome:
    """Run *shard* on *worker*; whatever happens is an outcome."""
    try:
        return Outcome(shard=shard, commit=worker.run(shard))
    except CommitLostError:
        return Outcome(shard=shard)
    except Exception as error:  # noqa: BLE001 - one shard's failure must not end the worker
        return Outcome(shard=shard, failure=Failure.of(error))


class LocalPool:
    """One worker in this process, whose shards run in threads."""

    def __init__(self, worker: ShardWorker, slots: int) -> None:
        """Take up to *slots* shards at a time."""
        self._worker = worker
        self._free = slots
        self._threads: list[threading.Thread] = []
        self._done: queue.Queue[Outcome] = queue.Queue()

    def offer(self, shard: Shard, *, alone: bool = False) -> bool:  # noqa: ARG002 - nothing here survives a crash anyway
        """Start *shard* in a thread if fewer than the slots are taken."""
        if self._free == 0:
            return False
        self._free -= 1
        # A daemon thread, because a hung read must not keep the process from ending.
        thread = threading.Thread(target=self._run, args=(shard,), name=f"shard-{shard.id}", daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        return True

    def _run(self, shard: Shard) -> None:
        self._done.put(run_shard(self._worker, shard))

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        outcomes = []
        try:
            outcomes.append(self._done.get(timeout=timeout))
            while True:
                outcomes.append(self._done.get_nowait())
        except queue.Empty:
            self._free += len(outcomes)
            return outcomes

    def progress(self) -> Mapping[str, int]:
        """Return how many rows of each running shard are through."""
        return self._worker.progress()

    def abandon(self, shard: Shard) -> None:
        """Refuse: a thread cannot be ended from outside."""
        raise PoolError(f"shard {shard} makes no progress, and without Ray a stuck worker cannot be replaced")

    def describe(self) -> list[Mapping[str, str]]:
        """Return what the worker runs on."""
        return [self._worker.ran_on]

    def close(self) -> None:
        """Let running shards end after their next batch, and wait for that a while."""
        self._worker.stop()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
