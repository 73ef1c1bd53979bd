"""Where batch jobs read and write: a directory of this machine, or a bucket of an object store, behind one interface.

Rules:
    * Keys are relative to the place, with ``/``. A key whose last part begins with a dot is nobody's data.
    * `Store.create` is put-if-absent: of all who race for a key exactly one wins. A store that wins and
      loses the answer says afterwards that something is there; so who meets `FileExistsError` reads
      what is there, and what names its writer may turn out to be its own.
    * A draft is invisible until it is published, and whole and durable from then on.
    * What a store refuses or leaves unanswered after all retries is a `StorageError`, which names the object
      and the answer: another try of the shard may succeed.
"""

from __future__ import annotations

import os
from pathlib import Path

from cluster.storage.base import Draft, Entry, Reader, Store
from cluster.storage.bucket import Bucket
from cluster.storage.directory import Directory
from runtime.objects import Patience

__all__ = ["Draft", "Entry", "Reader", "Store", "absolute_uri", "is_remote", "open_store"]


def is_remote(uri: str) -> bool:
    """Whether *uri* names an object store, not a path of this machine."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme != "file"


def absolute_uri(uri: str) -> str:
    """Return *uri* as it is compared and written down: a URL without a last slash, or an absolute path."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(uri.removeprefix("file://"))  # noqa: PTH100 - resolves ".." but no links


def open_store(uri: str | Path, patience: Patience | None = None) -> Store:
    """Open the place at *uri*: a path, ``file://``, ``s3://``, ``gs://``, ``az://`` or ``abfs://``; nothing is written.

    Raises:
        UsageError: It is a URL of no object store.
    """
    place = absolute_uri(str(uri))
    return Bucket.at(place, patience) if is_remote(place) else Directory(Path(place))
