"""Put-if-absent into an object store, atomic and durable.

Rules:
    * Of all who race for one key exactly one wins; a reader sees all bytes of an object or no object.
    * A put returns only when what it wrote survives a power cut. Object stores promise that. A local
      directory through `obstore` does not: it links the object into place without an fsync, so that
      after a power cut a published manifest could be there and empty. On a directory the put is
      therefore `runtime.files.create_bytes`' way: write, fsync, link, fsync the directories.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore

from runtime.files import fsync_directory

__all__ = ["put_if_absent"]


def put_if_absent(objects: ObjectStore, key: str, content: bytes | Path) -> bool:
    """Put *content* (bytes, or a file's) at *key* of *objects*, unless something is there.

    Returns:
        Whether it was put; ``False``: something was there, and was left as it is.

    Raises:
        OSError: The disk is full, or the store cannot be written.
    """
    if isinstance(objects, LocalStore) and objects.prefix is not None:
        return _link_into_place(Path(objects.prefix), key, content)
    try:
        objects.put(key, content, mode="create")
    except AlreadyExistsError:
        return False
    return True


def _link_into_place(root: Path, key: str, content: bytes | Path) -> bool:
    target = root / key
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)  # link(2) fails where rename(2) would replace
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    directory = target.parent
    while directory != root.parent:  # each directory's own entry may be new, too
        fsync_directory(directory)
        directory = directory.parent
    return True
