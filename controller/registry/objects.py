"""Put-if-absent into an object store, atomic and durable.

Rules:
    * Of all who race for one key exactly one wins; a reader sees all bytes of an object or no object.
    * A put returns only when what it wrote survives a power cut. Object stores promise that. A local
      directory through `obstore` does not: it links the object into place without an fsync, so that
      after a power cut a published manifest could be there and empty. On a directory the put is
      therefore `runtime.files.creating`: write, fsync, link, fsync the directories.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore

from runtime.files import creating

__all__ = ["put_if_absent"]


def put_if_absent(objects: ObjectStore, key: str, content: bytes | Path) -> bool:
    """Put *content* (bytes, or a file's) at *key* of *objects*, unless something is there.

    Returns:
        Whether it was put; ``False``: something was there, and was left as it is.

    Raises:
        OSError: The disk is full, or the store cannot be written.
    """
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
