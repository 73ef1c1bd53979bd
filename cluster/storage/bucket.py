"""A part of an object store as a `cluster.storage.base.Store`, through `obstore`.

Rules:
    * What `obstore` does not repeat itself is repeated here: answers 409 and 408, connections that break in the
      middle of a body, writes that were not answered in time. Writing again is harmless: a draft's key is
      nobody else's, and `create` loses against itself at worst, which the reader of the winner finds out.
    * Nothing is listed or asked twice: one listing, gets in parallel.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, cast

from cluster.errors import StorageError
from cluster.storage.base import Entry
from cluster.storage.ranges import RangeFile
from cluster.storage.retry import waits
from runtime.objects import Patience, answer_of, open_objects, put_if_absent

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Bucket", "BucketDraft"]

RETRIES = 4  # of what obstore gave up or does not repeat
PARALLEL = 32  # small requests at a time
PART = 8 * 1024**2  # bytes of a part of a multipart upload
PARTS_AT_A_TIME = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The objects below one URL.

    Attributes:
        uri: Without a last slash.
        objects: The store below; its keys are relative to *uri*.
        patience: How long it is asked again.
    """

    uri: str
    objects: ObjectStore
    patience: Patience

    @classmethod
    def at(cls, uri: str, patience: Patience | None = None) -> Self:
        """Open the place at *uri*.

        Raises:
            UsageError: It is a URL of no object store.
        """
        patience = patience or Patience()
        return cls(uri=uri, objects=open_objects(uri, patience), patience=patience)

    @property
    def staging(self) -> str:
        """Where temporary files are on this machine."""
        return tempfile.gettempdir()

    def where(self, key: str) -> str:
        """Return the URL of *key*."""
        return f"{self.uri}/{key}"

    def prepare(self, folders: Iterable[str]) -> None:
        """Do nothing: there are no folders."""

    def answered(self, key: str, request: Callable[[], T]) -> T:
        """Return what *request*, which is about *key*, does; repeated if another try may help.

        Raises:
            FileNotFoundError: The object is not there.
            StorageError: The store refused it, or did not answer.
        """
        from obstore.exceptions import (
            BaseError,
            NotModifiedError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        pauses, given_up = waits(self.patience, RETRIES), time.monotonic() + self.patience.total
        while True:
            try:
                return request()
            except (NotModifiedError, PreconditionError):
                raise
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StorageError(f"{self.where(key)}: access denied: {answer_of(error)}") from None
            except BaseError as error:
                pause = next(pauses, None)
                if pause is None or time.monotonic() > given_up:
                    raise StorageError(f"{self.where(key)}: the store failed: {answer_of(error)}") from None
                time.sleep(pause)

    def _written(self, key: str, request: Callable[[], T]) -> T:
        """As `answered`; what is not there is the bucket itself."""
        try:
            return self.answered(key, request)
        except FileNotFoundError as error:
            raise StorageError(f"{self.where(key)} cannot be written: {answer_of(error)}") from None

    def read(self, key: str) -> bytes | None:
        """Return a small object, ``None`` if there is none."""
        try:
            return self.answered(key, lambda: bytes(self.objects.get(key).bytes()))
        except FileNotFoundError:
            return None

    def read_all(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """Yield small objects in the order of *keys*, up to `PARALLEL` at a time."""
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="store") as executor:
            yield from executor.map(self.read, keys)

    def create(self, key: str, data: bytes) -> None:
        """Put *data* at *key*, unless something is there."""

        def put() -> bool:
            return put_if_absent(self.objects, key, data) or self._lost(key)

        if not self._written(key, put):
            raise FileExistsError(self.where(key))

    def _lost(self, key: str) -> bool:
        """Return ``False``: something is at *key*; `obstore` says so, too, when S3 says that writers collided (409).

        Raises:
            GenericError: Nothing is there.
        """
        from obstore.exceptions import GenericError

        try:
            self.objects.head(key)
        except FileNotFoundError:
            raise GenericError("409 Conflict, and nothing is there") from None
        return False

    def put(self, key: str, data: bytes) -> None:
        """Put *data* at *key*."""
        self._written(key, lambda: self.objects.put(key, data))

    def upload(self, key: str, file: IO[bytes]) -> None:
        """Put all of *file* at *key*, in parts if it is long."""

        def put() -> None:
            file.seek(0)
            self.objects.put(key, file, chunk_size=PART, max_concurrency=PARTS_AT_A_TIME)

        self._written(key, put)

    def remove(self, key: str) -> None:
        """Remove the object *key*, if it is there."""
        with suppress(FileNotFoundError):
            self.answered(key, lambda: self.objects.delete(key))

    def remove_all(self, keys: Sequence[str]) -> None:
        """Remove the objects *keys*, up to `PARALLEL` at a time."""
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="store") as executor:
            for _ in executor.map(self.remove, keys):
                pass

    def draft(self, key: str) -> BucketDraft:
        """Begin to write *key*."""
        return BucketDraft(self, key)

    def entries(self, folder: str) -> dict[str, Entry]:
        """Return by key all objects below *folder*; one listing."""
        listed = self.answered(folder, lambda: [meta for page in self.objects.list(folder or None) for meta in page])
        return {entry.key: entry for entry in map(_entry, listed) if not entry.key.rpartition("/")[2].startswith(".")}

    def names(self) -> set[str]:
        """Return the first parts of all keys."""
        found = self.answered("", self.objects.list_with_delimiter)
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return {path.strip("/").rpartition("/")[2] for path in paths if path.strip("/")}

    def reader(self, key: str, entry: Entry | None = None) -> RangeFile:
        """Open *key* for reading; one request if its *entry* is not known."""
        known = entry or self.entry(key)

        def fetch(start: int, stop: int) -> bytes:
            options: Any = {"range": (start, stop), "if_match": known.etag}
            return self.answered(key, lambda: bytes(self.objects.get(key, options=options).bytes()))

        return RangeFile(entry=known, where=self.where(key), fetch=fetch)

    def entry(self, key: str) -> Entry:
        """Return what the store says of *key*.

        Raises:
            FileNotFoundError: It is not there.
        """
        return _entry(self.answered(key, lambda: self.objects.head(key)))


def _entry(meta: Any) -> Entry:
    etag = meta["e_tag"] or meta["last_modified"].isoformat()
    return Entry(key=meta["path"], size=meta["size"], etag=etag)


@dataclass(slots=True)
class BucketDraft:
    """A temporary file without a name, put in parts when it is published; a killed process leaves nothing."""

    bucket: Bucket
    key: str
    file: IO[bytes] = field(default_factory=lambda: cast("IO[bytes]", tempfile.TemporaryFile()))  # noqa: SIM115 - `publish` or `discard` closes it
    _published: bool = False

    def publish(self) -> int:
        """Put the file; durable when this returns."""
        size = self.file.seek(0, 2)
        self._published = True  # or perhaps, if the answer is lost
        self.bucket.upload(self.key, self.file)
        self.file.close()
        return size

    def discard(self) -> None:
        """Remove the object; if the store does not answer it stays, as garbage that nothing refers to."""
        with suppress(OSError):
            self.file.close()
        if self._published:
            with suppress(StorageError, OSError):
                self.bucket.answered(self.key, lambda: self.bucket.objects.delete(self.key))
