"""Batch size and division of the threads, from what a worker's first batches took.

Rules:
    * The trials are batches of the job itself: sizes take turns until each was measured `TRIALS` times, or `BUDGET`
      seconds of inference were spent. No row is run twice, and no answer depends on it.
    * Of a size counts its fastest trial. Sizes that are as good as the best, within `TIE`, are equal, and the
      smallest of them is taken: it needs the least memory and overlaps best.
    * Threads are divided so that decoding and inference keep up with each other; they are left as they are
      unless that gains more than `GAIN`, since another division means another session.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["DEFAULT_SIZE", "SIZES", "Tuner", "best_size", "divided"]

SIZES = (16, 32, 64, 8)  # in the order in which they take turns
DEFAULT_SIZE = SIZES[0]  # until it is known better
TRIALS = 3
BUDGET = 3.0  # seconds
TIE = 0.05
GAIN = 0.15


def best_size(trials: Mapping[int, Sequence[float]], default: int = DEFAULT_SIZE) -> int:
    """Return the size to take.

    Args:
        trials: By size: seconds per row of each trial; those of a single trial, which may have been the warm-up, are
            not looked at.
        default: Where none is known.
    """
    fastest = {size: min(seconds) for size, seconds in trials.items() if len(seconds) > 1}
    if not fastest:
        return default
    bound = min(fastest.values()) * (1 + TIE)
    return min(size for size, seconds in fastest.items() if seconds <= bound)


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
    return best if slower(best) < slower((session, decode)) * (1 - GAIN) else (session, decode)


class Tuner:
    """Hands out batch sizes and learns from them; used by several threads at a time.

    Attributes:
        settled: Whether the size is final.
    """

    def __init__(self, sizes: Sequence[int], default: int = DEFAULT_SIZE) -> None:
        """Try *sizes*; *default* is the answer if there are not two of them."""
        self._default = default
        self._sizes = tuple(sizes) if len(sizes) > 1 else ()
        self._handed: Counter[int] = Counter()
        self._trials: dict[int, list[float]] = {size: [] for size in self._sizes}
        self._decoded = (0, 0.0)  # rows, seconds
        self._inferred = (0, 0.0)
        self._lock = threading.Lock()
        self.settled = not self._sizes

    @property
    def size(self) -> int:
        """The best size as far as is known."""
        with self._lock:
            return best_size(self._trials, self._default)

    def next_size(self) -> int:
        """Return how many rows the next batch shall have."""
        if self.settled:
            return self.size
        with self._lock:
            size = min(self._sizes, key=lambda size: self._handed[size])
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
            enough = all(len(trials) >= TRIALS for trials in self._trials.values())
            self.settled = enough or self._inferred[1] >= BUDGET
            return self.settled

    def divided(self, session: int, decode: int) -> tuple[int, int]:
        """Return the division of the threads that what was counted speaks for; see `divided`."""
        with self._lock:
            (decoded, decoding), (inferred, inferring) = self._decoded, self._inferred
        if not decoded or not inferred:
            return session, decode
        return divided(session, decode, decode_seconds=decoding / decoded, infer_seconds=inferring / inferred)
