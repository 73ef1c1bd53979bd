"""What passes between the driver and its workers: tasks go out, outcomes come back.

Rules:
    * Both are small and cross process borders; pixels never do.
    * A failure says of what kind it is; what to do about each kind is `cluster.dispatch.loop`'s business.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.dispatch.crashes import Part
from cluster.errors import InputChangedError, InputError, OutputError
from cluster.output.records import Commit
from cluster.plan import Shard
from runtime.errors import VedetteError

__all__ = ["Failure", "Kind", "Outcome", "Progress", "Task"]

HOPELESS: tuple[type[Exception], ...] = (InputChangedError, InputError, OutputError)
"""Errors that another try would meet again."""

NO_ROOM: Mapping[int, str] = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "read-only file system",
}

_NO_MEMORY = re.compile(r"out of memory|failed to allocate|bad_?alloc|cannot allocate memory", re.IGNORECASE)
"""What ONNX Runtime, its providers and the C++ library say when there is no memory."""


class Kind(StrEnum):
    """Why a shard failed."""

    ERROR = "error"  # an exception
    HOPELESS = "hopeless"  # an exception that another try would meet again
    CRASH = "crash"  # the worker's process died
    MEMORY = "memory"  # there was none left, for the worker or on its machine
    STUCK = "stuck"  # no progress, or longer than the shard timeout: the worker was killed
    LOST = "lost"  # not the shard's doing: its node is gone, or its worker was killed for another shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker is to do with a shard: run and commit it, or probe a part of it.

    Attributes:
        number: No two tasks of a driver have the same.
        shard: What it is about.
        probe: Read, decode and infer these rows only, and write nothing; ``None`` to run and commit the shard.
        spared: Rows, counted from the shard's first, that go to quarantine unseen, since processes die of them.
        share: The batch size is divided by this.
        alone: Give the worker nothing else meanwhile.
        avoid: Nodes where the shard had no memory; another one is better.
    """

    number: int
    shard: Shard
    probe: Part | None = None
    spared: frozenset[int] = frozenset()
    share: int = 1
    alone: bool = False
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a task failed.

    Attributes:
        text: One line.
        kind: What decides what happens next.
        node: Where it was; empty if that plays no part.
    """

    text: str
    kind: Kind = Kind.ERROR
    node: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that *error* is; a full or read-only disk is hopeless."""
        if isinstance(error, OSError) and error.errno is not None and error.errno in NO_ROOM:
            return cls(text=f"{NO_ROOM[error.errno]}: {error.filename}", kind=Kind.HOPELESS)
        text = " ".join(str(error).split())
        known = isinstance(error, VedetteError) and text
        return cls(text=text if known else f"{type(error).__name__}: {text}", kind=_kind_of(error, text))


def _kind_of(error: BaseException, text: str) -> Kind:
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return Kind.MEMORY
    return Kind.HOPELESS if isinstance(error, HOPELESS) else Kind.ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task: committed, lost to another attempt or probed (both ``None``), or failed."""

    task: Task
    commit: Commit | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a worker is: by id of the shards that run, how many rows are through."""

    rows: Mapping[str, int]
