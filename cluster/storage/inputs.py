"""Parquet files of an input, wherever they are: found, and opened by path or URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.storage.base import Entry, Reader, Store
from cluster.storage.bucket import Bucket
from cluster.storage.directory import Directory
from cluster.storage.ranges import Range
from runtime.datasets import PARQUET_SUFFIXES, is_parquet_data, splits_of
from runtime.errors import DatasetError

__all__ = ["Places", "column_ranges", "remote_parquet"]


@dataclass(frozen=True, slots=True)
class Places:
    """Opens files by path or URL; a bucket is opened once."""

    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, path: str) -> tuple[Store, str]:
        """Return the store that holds *path*, and the key there."""
        scheme, separator, rest = path.partition("://")
        if not separator:
            return Directory(Path(path).parent), Path(path).name
        name, _, key = rest.partition("/")
        with self._lock:
            uri = f"{scheme}://{name}"
            if uri not in self._buckets:
                self._buckets[uri] = Bucket.at(uri)
            return self._buckets[uri], key

    def reader(self, path: str, entry: Entry | None = None) -> Reader:
        """Open the file at *path*, of which *entry* is known already.

        Raises:
            FileNotFoundError: It is not there.
            StorageError: Its store does not answer.
        """
        store, key = self.place(path)
        return store.reader(key, entry)


def remote_parquet(places: Places, uri: str, split: str | None) -> dict[str, Entry]:
    """Return the Parquet files at or below the URL *uri*, by URL and in the order of it: one listing.

    Raises:
        DatasetError: There are none, or none of *split*.
        StorageError: The store does not answer.
    """
    store, key = places.place(uri)
    found = dict(_found(store, key.strip("/")))
    chosen = {
        store.where(entry.key): entry
        for name, entry in sorted(found.items())
        if split is None or split in splits_of(name)
    }
    if not chosen:
        wanted = f" of split {split!r}" if split is not None and found else ""
        raise DatasetError(f"{uri}: there is no Parquet file{wanted}; an object store is read as Parquet only")
    return chosen


def _found(store: Store, key: str) -> Iterator[tuple[PurePosixPath, Entry]]:
    """Yield what is data at or below *key*, with its name relative to it."""
    if key.endswith(PARQUET_SUFFIXES):
        try:
            entry = store.reader(key).entry
        except FileNotFoundError:
            pass
        else:
            yield PurePosixPath(PurePosixPath(key).name), entry
            return
    for entry in store.entries(f"{key}/" if key else "").values():
        name = PurePosixPath(entry.key).relative_to(key)
        if is_parquet_data(name):
            yield name, entry


def column_ranges(metadata: Any, groups: range, columns: list[str]) -> list[Range]:
    """Return the bytes (start, stop) of *columns* in the row *groups*, in the order of the file.

    Args:
        metadata: `pyarrow.parquet.FileMetaData`.
        groups: Numbers of row groups.
        columns: Names of columns; all of a nested one.
    """
    found = []
    for group in groups:
        chunks = metadata.row_group(group)
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            if chunk.path_in_schema.split(".")[0] in columns:
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                start = min(first, chunk.data_page_offset)
                found.append((start, start + chunk.total_compressed_size))
    return sorted(found)
