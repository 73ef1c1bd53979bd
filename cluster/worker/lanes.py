"""Who may compute on a worker's cores, where a thread does all that a batch needs there (docs/adr/0016).

Rules:
    * A shard keeps its lane from batch to batch: threads that take turns for each batch take the core's caches from
      each other (two cores, three shards: a tenth of the rows).
    * It leaves the lane while it waits for what is to be read, and when it is through; and to others after `SLICE`
      seconds, so that none stands still for long.
    * A lane goes to whoever waited longest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["SLICE", "Lane", "Lanes"]

SLICE = 1.0  # seconds


class Lanes:
    """So many lanes, used by several threads at a time."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """Yield a lane that is to be taken; leave it in the end."""
        lane = Lane(self)
        try:
            yield lane
        finally:
            lane.leave()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for one."""
        return bool(self._waiting)

    def enter(self) -> None:
        """Wait for a lane, and have it."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()  # until `leave` hands it over

    def leave(self) -> None:
        """Give a lane to who waited longest, or back."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class Lane:
    """One of the lanes, for one thread; had or not."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._since: float | None = None  # when it was entered; None while it is not had

    def take(self) -> None:
        """Have it from now on; others who wait come first if it was had for `SLICE` seconds."""
        if self._since is not None and self._lanes.wanted and time.monotonic() - self._since > SLICE:
            self.leave()
        if self._since is None:
            self._lanes.enter()
            self._since = time.monotonic()

    def leave(self) -> None:
        """Have it no more."""
        if self._since is not None:
            self._since = None
            self._lanes.leave()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Leave it while inside, which waits for something; have it again after that, if it was had before."""
        had = self._since is not None
        self.leave()
        yield
        if had:
            self.take()
