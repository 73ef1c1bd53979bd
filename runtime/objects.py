"""Object stores: how every part of Vedette opens one, and puts into one what was not there.

Rules:
    * Of all who race for one key exactly one wins; a reader sees all bytes of an object or no object.
    * A put returns only when what it wrote survives a power cut. Object stores promise that. A local
      directory through `obstore` does not: it links the object into place without an fsync, so that
      after a power cut a published manifest could be there and empty. On a directory the put is
      therefore `runtime.files.creating`: write, fsync, link, fsync the directories.
    * Credentials, region and endpoint come from the environment that the clouds' own tools read
      (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``). An endpoint that is named with ``http://`` may be spoken to without TLS.
    * A request that a store answers with an error of its own (5xx, 429) is repeated, with exponential
      backoff and jitter, as long as `Patience` lasts.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UsageError
from runtime.files import creating

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Patience", "answer_of", "open_objects", "put_if_absent"]

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a store that does not answer is asked again.

    Attributes:
        retries: Further requests after the first.
        first_wait: Seconds before the first of them; doubled each time, with jitter.
        longest_wait: Seconds that no wait exceeds.
        total: Seconds after which no request is repeated.
        answer: Seconds that one request may take.
    """

    retries: int = 10
    first_wait: float = 0.1
    longest_wait: float = 15.0
    total: float = 120.0
    answer: float = 60.0


def open_objects(uri: str, patience: Patience | None = None) -> ObjectStore:
    """Open the object store at *uri*, a URL with ``://``; nothing is asked of it yet.

    Raises:
        UsageError: It is a URL of no object store that `obstore` knows.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    patience = patience or Patience()
    plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    try:
        if uri.startswith("file:"):
            return from_url(uri)
        return from_url(
            uri,
            client_options={"timeout": timedelta(seconds=patience.answer), "allow_http": plain},
            retry_config={
                "max_retries": patience.retries,
                "retry_timeout": timedelta(seconds=patience.total),
                "backoff": {
                    "init_backoff": timedelta(seconds=patience.first_wait),
                    "max_backoff": timedelta(seconds=patience.longest_wait),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"{uri!r} is no object store: {answer_of(error)}") from None


def answer_of(error: Exception) -> str:
    """Return what *error* of `obstore` says, without its internals, which it appends over many lines."""
    return str(error).partition("\n")[0][:300]


def put_if_absent(objects: ObjectStore, key: str, content: bytes | Path) -> bool:
    """Put *content* (bytes, or a file's) at *key* of *objects*, unless something is there.

    Returns:
        Whether it was put; ``False``: something was there, and was left as it is.

    Raises:
        OSError: The disk is full, or the store cannot be written.
    """
    from obstore.exceptions import AlreadyExistsError
    from obstore.store import LocalStore

    if isinstance(objects, LocalStore) and objects.prefix is not None:
        return _create(Path(objects.prefix) / key, content)
    try:
        objects.put(key, content, mode="create")
    except AlreadyExistsError:
        return False
    return True


def _create(path: Path, content: bytes | Path) -> bool:
    try:
        with creating(path) as temporary:
            if isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_bytes(content)
    except FileExistsError:
        return False
    return True
