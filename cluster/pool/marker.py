"""A file that outlives the death of the process that holds it, and so tells the next of it.

Rules:
    * A holder that ends in order, error or not, removes its marker; one that is killed leaves it.
    * While a holder lives, nobody else has the marker, or hears of a death.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.files import make_directory

__all__ = ["marker_of", "marking"]


def marker_of(output: str, cache: Path) -> Path:
    """Return the marker of the local jobs that write to *output*, below *cache*."""
    return cache / "batch" / f"{hashlib.sha256(output.encode()).hexdigest()[:16]}.running"


@contextmanager
def marking(path: Path) -> Iterator[bool]:
    """Hold the marker *path*; yield whether an earlier holder died with it. An orderly end, error or not, removes it.

    Whoever runs beside a living holder has no marker, and hears of no death.
    """
    make_directory(path.parent)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        died = os.fstat(file.fileno()).st_size > 0
        file.write(b"a local batch job is running\n")
        file.flush()
        try:
            yield died
        finally:
            path.unlink(missing_ok=True)
