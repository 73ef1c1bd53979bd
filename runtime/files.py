"""Durable files: what these functions say was written survives a crash and a power cut.

Rules:
    * A reader sees the old content or the new, never a part.
    * A function returns only after the content *and* the directory entry were synced to the disk.
    * `create_bytes` is put-if-absent: of all who race for one name exactly one wins.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import HomeError

__all__ = ["create_bytes", "exclusive_lock", "fsync_directory", "hash_file", "replace_bytes", "replace_symlink"]


def fsync_directory(path: Path) -> None:
    """Sync the entries of directory *path*: a rename is durable only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _synced_temporary(directory: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Yield a synced temporary file in *directory* that holds *data*; gone afterwards if still there."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=directory)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write *data* to *path*, atomically and durably; what was there is replaced."""
    with _synced_temporary(path.parent, data, mode) as temporary:
        temporary.replace(path)
        fsync_directory(path.parent)


def create_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write *data* to *path* only if nothing is there yet, atomically and durably.

    Raises:
        FileExistsError: Something is there; it was left as it is.
    """
    with _synced_temporary(path.parent, data, mode) as temporary:
        os.link(temporary, path)  # link(2) fails where rename(2) would replace
        fsync_directory(path.parent)


def replace_symlink(link: Path, target: str) -> None:
    """Point *link* at *target* (relative to the link's directory), atomically and durably."""
    temporary = link.with_name(f".tmp-{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    fsync_directory(link.parent)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the file at *path*, lowercase hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the advisory lock file *path*; the kernel lets go of it when the process ends, however it ends.

    Raises:
        HomeError: Another process holds it; the text names *what* is in use and by which process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise HomeError(f"{what} is in use by process {holder} (lock {path}); stop that one first") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
