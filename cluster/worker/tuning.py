"""Batch size and division of the threads, from what a worker's first batches took.

Rules:
    * The trials are batches of the job itself: the best size so far and a neighbour of it on `LADDER` take turns until
      each was measured `TRIALS` times, or `BUDGET` seconds of inference were spent. No row is run twice, and no answer
      depends on it.
    * Of a size counts its fastest trial. It looks at the smaller neighbour first: if that is faster by `GAIN`, it goes
      down as long as it gains; if it is slower by `GAIN_OF_MORE`, it goes up as long as it gains as much. Where sizes
      are alike it stays, and tries no larger one: the session would keep the memory of it.
    * It begins at `FIRST`. On cores two images are as fast as any number, or faster, for they stay in the caches
      (MobileNetV2: 8.7 ms an image with two, 9.0 with 16, 9.3 with 32; 28 MB of activations in place of 220).
    * Threads are divided so that decoding and inference keep up with each other; they are left as they are
      unless that gains more than `DIVISION_GAIN`, since another division means another session.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["FIRST", "LADDER", "Tuner", "divided"]

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FIRST: Mapping[bool, int] = {True: 2, False: 16}
"""By whether a worker infers on cores: the batch size that it begins with."""
TRIALS = 3
BUDGET = 3.0  # seconds
GAIN = 0.05
GAIN_OF_MORE = 0.1  # of a larger batch, which takes more memory
DIVISION_GAIN = 0.15


def divided(session: int, decode: int, *, decode_seconds: float, infer_seconds: float) -> tuple[int, int]:
    """Return how many of a worker's threads are for the session, and how many decode.

    Args:
        session: Threads within one inference as it is now.
        decode: Threads that decode as it is now.
        decode_seconds: Of one thread for one row.
        infer_seconds: Of all session threads together for one row; that they scale is assumed.
    """

    def slower(division: tuple[int, int]) -> float:
        return max(infer_seconds * session / division[0], decode_seconds / division[1])

    total = session + decode
    best = min(((total - each, each) for each in range(1, total)), key=slower)
    return best if slower(best) < slower((session, decode)) * (1 - DIVISION_GAIN) else (session, decode)


class Tuner:
    """Hands out batch sizes and learns from them; used by several threads at a time.

    Attributes:
        settled: Whether the size is final.
    """

    def __init__(self, sizes: Sequence[int], first: int) -> None:
        """Climb among *sizes*, ascending, from *first*, which is one of them."""
        self._sizes = tuple(sizes)
        self._best = self._began = self._sizes.index(first)
        self._step = -1 if self._best else 1
        self._rival = self._neighbour()
        self._handed: Counter[int] = Counter()
        self._trials: dict[int, list[float]] = {size: [] for size in self._sizes}
        self._decoded = (0, 0.0)  # rows, seconds
        self._inferred = (0, 0.0)
        self._lock = threading.Lock()
        self.settled = self._rival is None

    def _neighbour(self) -> int | None:
        """Return the place of the size that is one step from the best one; ``None`` where the ladder ends."""
        place = self._best + self._step
        return place if 0 <= place < len(self._sizes) else None

    @property
    def size(self) -> int:
        """The best size as far as is known."""
        return self._sizes[self._best]

    def next_size(self) -> int:
        """Return how many rows the next batch shall have."""
        with self._lock:
            if self._rival is None:
                return self.size
            size = min(self.size, self._sizes[self._rival], key=lambda size: self._handed[size])
            self._handed[size] += 1
            return size

    def decoded(self, rows: int, seconds: float) -> None:
        """Count a batch of *rows* that one thread decoded in *seconds*."""
        with self._lock:
            self._decoded = (self._decoded[0] + rows, self._decoded[1] + seconds)

    def inferred(self, rows: int, seconds: float) -> bool:
        """Count a batch of *rows* that took *seconds*; return whether this settled the size: it does once."""
        with self._lock:
            if self.settled:
                return False
            self._inferred = (self._inferred[0] + rows, self._inferred[1] + seconds)
            if rows in self._trials:
                self._trials[rows].append(seconds / rows)
            if self._inferred[1] >= BUDGET:
                self._rival = None
            self._climb()
            self.settled = self._rival is None
            return self.settled

    def _climb(self) -> None:
        """Take a step, or turn upwards, or stop, if enough is known of the best size and its rival."""
        if self._rival is None:
            return
        best, rival = (self._trials[self._sizes[place]] for place in (self._best, self._rival))
        if len(best) < TRIALS or len(rival) < TRIALS:
            return
        gain = GAIN if self._step < 0 else GAIN_OF_MORE
        if min(rival) < min(best) * (1 - gain):
            self._best = self._rival
        elif min(best) < min(rival) * (1 - GAIN_OF_MORE) and self._rival == self._began - 1:
            self._step = 1
        else:
            self._rival = None
            return
        self._rival = self._neighbour()

    def divided(self, session: int, decode: int) -> tuple[int, int]:
        """Return the division of the threads that what was counted speaks for; see `divided`."""
        with self._lock:
            (decoded, decoding), (inferred, inferring) = self._decoded, self._inferred
        if not decoded or not inferred:
            return session, decode
        return divided(session, decode, decode_seconds=decoding / decoded, infer_seconds=inferring / inferred)
