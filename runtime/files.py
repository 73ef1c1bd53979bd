"""Durable files: what these functions say was written survives a crash and a power cut.

Rules:
    * A reader sees the old content or the new, never a part.
    * A function returns only after the content *and* every directory entry on the way to it that it
      made were synced to the disk.
    * `creating` and `create_bytes` are put-if-absent: of all who race for one name exactly one wins.
    * What a crash leaves behind is a file named ``.tmp-...``, which nobody takes for data.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import HomeError

__all__ = [
    "create_bytes",
    "creating",
    "exclusive_lock",
    "fsync_directory",
    "hash_file",
    "make_directory",
    "replace_bytes",
    "replace_symlink",
    "replacing",
]


def fsync_directory(path: Path) -> None:
    """Sync the entries of directory *path*: a rename is durable only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make directory *path* and its parents, durably, where they are absent."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync_directory(path.parent)


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an empty file in the directory of *path*, which is made if need be; gone afterwards if still there."""
    make_directory(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path, mode: int) -> None:
    with path.open("rb") as file:
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Yield the path of a file to write; when the block ends without an error it replaces *path*, durably."""
    with _temporary_beside(path) as temporary:
        yield temporary
        _sync(temporary, mode)
        temporary.replace(path)
        fsync_directory(path.parent)


def replace_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write *data* to *path*, atomically and durably; what was there is replaced."""
    with replacing(path, mode=mode) as temporary:
        temporary.write_bytes(data)


@contextmanager
def creating(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Yield the path of a file to write; when the block ends without an error it becomes *path*, durably.

    Raises:
        FileExistsError: At the end of the block something is at *path*; it was left as it is.
    """
    with _temporary_beside(path) as temporary:
        yield temporary
        _sync(temporary, mode)
        os.link(temporary, path)  # link(2) fails where rename(2) would replace
        fsync_directory(path.parent)


def create_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write *data* to *path* only if nothing is there yet, atomically and durably; raises as `creating` does."""
    with creating(path, mode=mode) as temporary:
        temporary.write_bytes(data)


def replace_symlink(link: Path, target: str) -> None:
    """Point *link* at *target* (relative to the link's directory), atomically and durably."""
    temporary = link.with_name(f".tmp-{link.name}-{secrets.token_hex(8)}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
        fsync_directory(link.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
    make_directory(path.parent)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise HomeError(f"{what} is in use by process {holder} (lock {path}); stop that one first") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # who finds it locked next must not be sent to us
