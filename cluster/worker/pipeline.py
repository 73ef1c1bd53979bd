"""Overlap the stages of a pipeline in threads, in bounded buffers.

Rules:
    * A buffer holds at most ``depth`` items; a fast stage waits for a slow one.
    * Order is kept. An error of a stage reaches the consumer where its item would have been.
    * Closing the last iterator ends every thread of the chain before it returns; none is left behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["StageClock", "map_ahead", "prefetch"]

T = TypeVar("T")
R = TypeVar("R")


class StageClock:
    """Adds up how many seconds each stage was busy (wall clock, over all threads)."""

    def __init__(self, *stages: str) -> None:
        self._seconds = dict.fromkeys(stages, 0.0)
        self._lock = threading.Lock()

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count *seconds* by stage, that passed elsewhere."""
        with self._lock:
            for stage, spent in seconds.items():
                self._seconds[stage] += spent

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time spent inside for *stage*."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def timed(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield *items*; the time that each takes to come counts for *stage*."""
        iterator = iter(items)
        try:
            while True:
                with self.measure(stage):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
        finally:
            _close(iterator)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage so far."""
        with self._lock:
            return dict(self._seconds)


def _close(iterator: object) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


class _End:
    """The last item of a buffer: the source is exhausted, or failed with *error*."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int, name: str) -> Generator[T, None, None]:
    """Yield *items*, of which a thread called *name* fetches up to *depth* (at least 1) ahead of the consumer."""
    buffer: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, buffer, stopped), name=name, daemon=True)
    thread.start()
    try:
        while not isinstance(item := buffer.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        while thread.is_alive():
            _drain(buffer)  # a thread that waits for room sees that it is to stop
            thread.join(0.005)


def _fill(items: Iterable[T], buffer: queue.Queue[T | _End], stopped: threading.Event) -> None:
    iterator = iter(items)
    error: BaseException | None = None
    try:
        for item in iterator:
            buffer.put(item)
            if stopped.is_set():
                break
    except BaseException as caught:  # noqa: BLE001 - it is raised in the consumer's thread instead
        error = caught
    finally:
        _close(iterator)
    buffer.put(_End(error))


def _drain(buffer: queue.Queue[T | _End]) -> None:
    while True:
        try:
            buffer.get_nowait()
        except queue.Empty:
            return


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], executor: Executor, ahead: int | Callable[[], int]
) -> Iterator[R]:
    """Yield ``function(item)`` of all *items* in order, at most *ahead* of them computed in advance by *executor*.

    What is being computed when the iterator ends is waited for: a daemon thread that comes back from native code while
    the interpreter ends would abort the process.
    """
    most = ahead if callable(ahead) else lambda: ahead
    pending: deque[Future[R]] = deque()
    iterator = iter(items)
    try:
        for item in iterator:
            pending.append(executor.submit(function, item))
            while len(pending) > most():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        wait([future for future in pending if not future.cancel()])
        _close(iterator)
