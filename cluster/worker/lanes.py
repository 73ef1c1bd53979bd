"""Threads that decode and infer, one a core, and whose block is next (docs/adr/0016).

Rules:
    * Of the blocks that wait, one of the shard that began first is next: shards end one after the other, the first of a
      job soon; and where few are left, each has several lanes.
    * Those that have waited for `PATIENCE` seconds come before that, the longest first, so that no shard looks as if it
      stood still.
    * The shards of a worker have about a block for each lane ahead, together.
    * They are daemon threads: a decoder that hangs must not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, TypeVar

from cluster.worker.pipeline import map_ahead

__all__ = ["PATIENCE", "Lanes"]

PATIENCE = 1.0  # seconds

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Block:
    shard: int  # in the order in which they began
    since: float
    future: Future[Any]
    work: Callable[[], Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self.future.set_exception(error)


class Lanes:
    """So many threads, used by the threads of several shards at a time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._threads: list[threading.Thread] = []  # from the first shard on
        self._ready = threading.Semaphore(0)  # as often as blocks wait
        self._shards = count()
        self._running = 0
        self._waiting: list[_Block] = []
        self._lock = threading.Lock()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
        """Yield ``function(item)`` of the *items* of a shard, in order."""
        with self._shard() as shard:
            yield from map_ahead(function, items, _Lane(self, shard), self._ahead)

    @contextmanager
    def _shard(self) -> Iterator[int]:
        with self._lock:
            self._running += 1
            while len(self._threads) < self._number:
                name = f"lane-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._compute, name=name, daemon=True))
                self._threads[-1].start()
        try:
            yield next(self._shards)
        finally:
            with self._lock:
                self._running -= 1

    def _ahead(self) -> int:
        """Return how many blocks a shard computes in advance: its share of the lanes."""
        return -(-self._number // max(1, self._running))

    def submit(self, shard: int, work: Callable[[], R]) -> Future[R]:
        """Let a lane do *work*, for the shard of that number."""
        block = _Block(shard, time.monotonic(), Future(), work)
        with self._lock:
            self._waiting.append(block)
        self._ready.release()
        return block.future

    def _compute(self) -> None:
        while True:
            self._ready.acquire()
            self._next().run()

    def _next(self) -> _Block:
        with self._lock:
            block = self._waiting[0]  # which has waited longest
            if time.monotonic() - block.since < PATIENCE:
                block = min(self._waiting, key=lambda one: one.shard)  # of several the first
            self._waiting.remove(block)
        return block


class _Lane(Executor):
    """What a shard sees of the lanes."""

    def __init__(self, lanes: Lanes, shard: int) -> None:
        self._lanes = lanes
        self._shard = shard

    def submit(self, function: Callable[..., R], /, *arguments: Any, **named: Any) -> Future[R]:
        return self._lanes.submit(self._shard, partial(function, *arguments, **named))
