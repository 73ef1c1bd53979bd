"""How batches are put together before the session, and how many of them are in it.

Rules:
    * The pictures of a batch are written where the session likes to have them (`Preparation.memory`), each by the
      thread that decoded it: nothing is stacked afterwards.
    * Until the batch size is settled, one batch of a worker is in the session at a time: what two take says nothing
      of either. (A worker that stands for several always has as many as it stands for.)
    * After that as many as `Predictor.in_flight` says, and answers come in the order of the batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cluster.worker.pipeline import map_ahead
from runtime.errors import ModelError
from runtime.preparation import Preparation

__all__ = ["Filling", "Turns"]

T = TypeVar("T")
R = TypeVar("R")


class Filling:
    """A batch that is being put together, by one thread.

    Args:
        preparation: Prepares the pictures.
        most: How many there will be at most.
    """

    def __init__(self, preparation: Preparation, most: int) -> None:
        self._preparation = preparation
        self._most = most
        self._room: npt.NDArray[np.generic] | None = None
        self._count = 0

    def add(self, picture: npt.NDArray[np.uint8]) -> None:
        """Prepare *picture*, uint8 (H, W, 3) RGB, as the next of the batch.

        Raises:
            ImageError: It is too large once resized; the batch is as before.
            ModelError: It becomes an input of another size than those before.
        """
        if self._room is None:  # only now is it known how large an input is, where the manifest names no size
            first = self._preparation.prepare(picture)
            self._room = self._preparation.empty_batch(self._most, first)
            self._room[0] = first
        else:
            try:
                self._preparation.prepare(picture, self._room[self._count])
            except ModelError as error:
                raise ModelError(f"{self._preparation.reference}: {error}") from None
        self._count += 1

    def cut(self, rows: int) -> None:
        """Forget what was added after the first *rows*."""
        self._count = rows

    @property
    def batch(self) -> npt.NDArray[np.generic] | None:
        """The inputs (n, ...) so far; ``None`` if there is none."""
        return None if self._room is None else self._room[: self._count]


class Turns:
    """Who may be in the session; used by several threads at a time.

    Args:
        callers: Threads that each bring a batch at a time of their own.
        in_flight: Batches in the session at a time that the session overlaps.
        settled: Whether what a batch takes is no longer measured.
    """

    def __init__(self, callers: int, in_flight: int, settled: Callable[[], bool]) -> None:
        most = max(callers, in_flight)
        self._ahead = in_flight - 1
        self._settled = settled
        self._slots = threading.BoundedSemaphore(most)
        self._alone = None if callers > 1 else threading.Lock()
        self._executor = ThreadPoolExecutor(most, thread_name_prefix="infer") if in_flight > 1 else None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it."""
        with self._slots, nullcontext() if self._alone is None or self._settled() else self._alone:
            yield

    def map(self, function: Callable[[T], R], items: Generator[T, None, None]) -> Iterator[R]:
        """Yield ``function(item)`` of *items* in order, as many at a time as the session overlaps."""
        with closing(items):
            if self._executor is None:
                yield from map(function, items)
            else:
                yield from map_ahead(function, items, self._executor, lambda: self._ahead if self._settled() else 0)
