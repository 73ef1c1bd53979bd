"""How many workers, and how each uses its cores: the language of ``--workers``, and the division of a machine.

Rules:
    * ``auto`` is one worker a core; ``N`` or ``cpu=N`` is N workers on the CPU.
    * A worker with one core infers and decodes on it, one thread each. With more, a quarter decodes
      and the rest infers: for a MobileNetV2 that is how the work divides (decode and resize
      2.6 ms, inference 8 ms).
    * Workers beyond the cores share them: each reserves its part of one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from cluster.errors import WorkersError
from cluster.worker import Threads

__all__ = ["Division", "divide", "machine_cores", "parse_workers"]

_SPEC = re.compile(r"(?:cpu=)?(\d+)")
MOST_WORKERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Who gets what of a machine or cluster.

    Attributes:
        workers: How many.
        cpus: Cores that each reserves; a fraction if there are more workers than cores.
        threads: What each does with them.
    """

    workers: int
    cpus: float
    threads: Threads


def parse_workers(text: str) -> int | None:
    """Return the number of workers that *text* asks for; ``None`` for ``auto``.

    Raises:
        WorkersError: It is neither ``auto``, ``N`` nor ``cpu=N``.
    """
    if text == "auto":
        return None
    match = _SPEC.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= MOST_WORKERS:
        raise WorkersError(f"--workers {text!r}: expected auto, N or cpu=N, with N from 1 to {MOST_WORKERS}")
    return int(match[1])


def divide(cores: int, workers: int | None) -> Division:
    """Return how *workers* (``None``: one a core) share *cores*."""
    cores = max(1, cores)
    count = workers or cores
    each = max(1, cores // count)
    decode = max(1, each // 4)
    threads = Threads(session=max(1, each - decode), decode=decode)
    return Division(workers=count, cpus=each if count <= cores else cores / count, threads=threads)


def machine_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
