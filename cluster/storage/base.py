"""What a place to read and write must be able to do (`cluster.storage` has the rules)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

__all__ = ["Draft", "Entry", "Reader", "Store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An object as it is now.

    Attributes:
        key: Relative to the place.
        size: In bytes.
        etag: Changes when the content does.
    """

    key: str
    size: int
    etag: str


class Draft(Protocol):
    """An object that is being written."""

    @property
    def file(self) -> IO[bytes]:
        """What to write to."""

    def publish(self) -> int:
        """Make it visible under its key, whole and durable; return its size in bytes.

        Raises:
            OSError: The disk refused the last bytes.
            StorageError: The store did not take it.
        """

    def discard(self) -> None:
        """Remove it, published or not; never fails."""


class Reader(Protocol):
    """An open object, for random access by Arrow."""

    @property
    def entry(self) -> Entry:
        """The object that was opened; what is read is of this one or an error."""

    @property
    def source(self) -> Any:
        """What `pyarrow.parquet.ParquetFile` opens."""

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Take note that the bytes of these *ranges* (start, stop) will be read, about in this order."""

    def unchanged(self) -> bool:
        """Whether all that was read is of the object that was opened."""

    def close(self) -> None:
        """End what works ahead."""


class Store(Protocol):
    """A place with objects by key; used by several threads at a time."""

    @property
    def uri(self) -> str:
        """Where it is: an absolute path, or a URL without a last slash."""

    @property
    def staging(self) -> str:
        """The directory of this machine that drafts take room in."""

    def where(self, key: str) -> str:
        """Return the path or URL of *key*, for people and other readers."""

    def prepare(self, folders: Iterable[str]) -> None:
        """Make *folders*, where a place has such."""

    def read(self, key: str) -> bytes | None:
        """Return a small object, ``None`` if there is none."""

    def read_all(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """Yield small objects in the order of *keys*, many at a time."""

    def create(self, key: str, data: bytes) -> None:
        """Put *data* at *key*, durably.

        Raises:
            FileExistsError: Something is there; it was left as it is.
        """

    def put(self, key: str, data: bytes) -> None:
        """Put *data* at *key*, durably; what was there is replaced."""

    def remove(self, key: str) -> None:
        """Remove *key*; fine if it is not there."""

    def remove_all(self, keys: Sequence[str]) -> None:
        """Remove *keys*, many at a time; fine if some are not there."""

    def draft(self, key: str) -> Draft:
        """Begin to write *key*."""

    def entries(self, folder: str) -> dict[str, Entry]:
        """Return by key all below *folder*, which ends with a slash or is empty (the whole place); one listing."""

    def names(self) -> set[str]:
        """Return the first parts of all keys; empty if there is nothing yet."""

    def reader(self, key: str, entry: Entry | None = None) -> Reader:
        """Open *key*, of which *entry* is known already, for reading.

        Raises:
            FileNotFoundError: It is not there.
        """
