"""A directory of this machine as a `cluster.storage.base.Store`: link and fsync make it durable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from cluster.errors import OutputError
from cluster.storage.base import Entry
from runtime.files import create_bytes, fsync_directory, replace_bytes

__all__ = ["Directory", "DirectoryDraft", "LocalFile", "entry_of"]


@dataclass(frozen=True, slots=True)
class Directory:
    """The files below *root*, which need not exist yet."""

    root: Path

    @property
    def uri(self) -> str:
        """The path."""
        return str(self.root)

    @property
    def staging(self) -> str:
        """The directory itself: drafts are files beside their places."""
        return str(self.root)

    def where(self, key: str) -> str:
        """Return the path of *key*."""
        return str(self.root / key)

    def prepare(self, folders: Iterable[str]) -> None:
        """Make *folders*."""
        for name in folders:
            (self.root / name).mkdir(exist_ok=True)

    def read(self, key: str) -> bytes | None:
        """Return a file, ``None`` if there is none.

        Raises:
            OutputError: The place is a file.
        """
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise OutputError(f"{self.root} is not a directory; give --output a new or empty one") from None

    def read_all(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """Yield files, one after the other: a disk is near."""
        return map(self.read, keys)

    def create(self, key: str, data: bytes) -> None:
        """Put *data* at *key*, unless something is there."""
        create_bytes(self.root / key, data)

    def put(self, key: str, data: bytes) -> None:
        """Put *data* at *key*."""
        replace_bytes(self.root / key, data)

    def remove(self, key: str) -> None:
        """Remove the file *key*, if it is there."""
        (self.root / key).unlink(missing_ok=True)

    def remove_all(self, keys: Sequence[str]) -> None:
        """Remove the files *keys*, one after the other: a disk is near."""
        for key in keys:
            self.remove(key)

    def draft(self, key: str) -> DirectoryDraft:
        """Begin to write *key*."""
        folders = tuple(self.root / parent for parent in PurePosixPath(key).parents[:-1])
        return DirectoryDraft(self.root / key, folders)

    def entries(self, folder: str) -> dict[str, Entry]:
        """Return by key the files below *folder* that are not hidden."""
        found = {}
        for path, folders, names in os.walk(self.root / folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith("."):
                    file = Path(path, name)
                    key = file.relative_to(self.root).as_posix()
                    with suppress(FileNotFoundError):  # removed meanwhile, by the driver that ended the job
                        found[key] = entry_of(file, key)
        return found

    def names(self) -> set[str]:
        """Return what lies directly in the directory."""
        if not self.root.is_dir():
            return set()
        return {entry.name for entry in os.scandir(self.root) if not entry.name.startswith(".")}

    def reader(self, key: str, entry: Entry | None = None) -> LocalFile:
        """Open *key* for reading."""
        path = self.root / key
        return LocalFile(path=path, entry=entry or entry_of(path, key))


def entry_of(path: Path, key: str) -> Entry:
    """Return the file at *path* as an entry: size and modification time are what changes with its content."""
    stat = path.stat()
    return Entry(key=key, size=stat.st_size, etag=f"{stat.st_size}-{stat.st_mtime_ns}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file that Arrow opens itself."""

    path: Path
    entry: Entry

    @property
    def source(self) -> str:
        """The path."""
        return str(self.path)

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Do nothing: the kernel reads ahead."""

    def unchanged(self) -> bool:
        """Whether size and modification time are what they were."""
        return entry_of(self.path, self.entry.key) == self.entry

    def close(self) -> None:
        """Do nothing: Arrow closes what it opens."""


@dataclass(slots=True)
class DirectoryDraft:
    """A file beside its place, under a hidden name until it is published.

    Attributes:
        final: Its place.
        folders: That it is in, the innermost first; those that are new must reach the disk as well.
        file: What to write to.
    """

    final: Path
    folders: tuple[Path, ...]
    file: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.final.parent.mkdir(exist_ok=True, parents=True)
        self.file = self._hidden.open("wb")

    @property
    def _hidden(self) -> Path:
        return self.final.with_name(f".{self.final.name}.tmp")

    def publish(self) -> int:
        """Make the file visible under its name; durable when this returns."""
        self.file.flush()
        os.fsync(self.file.fileno())
        size = os.fstat(self.file.fileno()).st_size
        self.file.close()
        self._hidden.rename(self.final)
        for folder in self.folders:
            fsync_directory(folder)
        return size

    def discard(self) -> None:
        """Remove the file, visible or not."""
        with suppress(OSError):  # a full disk refuses the last bytes; no loss
            self.file.close()
        self._hidden.unlink(missing_ok=True)
        self.final.unlink(missing_ok=True)
