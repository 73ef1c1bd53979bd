"""Chunks on the disk, by digest: what was fetched once is not fetched again.

Rules:
    * A chunk is kept only if its SHA-256 is its name, and is on the disk when `put` returns, so that
      a cut costs at most the window in flight.
    * A chunk is checked again when it is read: a disk may lie. One that no longer fits is removed.
    * A file assembled from chunks has the pinned size and SHA-256, or does not exist.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from edge_agent.errors import FetchError
from runtime.errors import ArtifactError
from runtime.files import fsync_directory, replace_bytes
from runtime.manifest import PinnedFile

__all__ = ["ChunkStore", "chunks_of"]


def chunks_of(pinned: PinnedFile) -> tuple[str, ...]:
    """Return the digests of *pinned*'s chunks, in order; a file without a list is one chunk."""
    return pinned.chunks or ((pinned.sha256,) if pinned.size else ())


class ChunkStore:
    """Verified chunks in one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def has(self, digest: str) -> bool:
        """Whether the chunk is here."""
        return (self._root / digest).is_file()

    def lacking(self, digests: Collection[str]) -> list[str]:
        """Return those of *digests* that are not here, in order, each once."""
        return [digest for digest in dict.fromkeys(digests) if not self.has(digest)]

    def put(self, digest: str, data: bytes) -> bool:
        """Keep *data* if its SHA-256 is *digest*; returns whether it is."""
        if hashlib.sha256(data).hexdigest() != digest:
            return False
        replace_bytes(self._root / digest, data)
        return True

    def read(self, digest: str) -> bytes:
        """Return the chunk.

        Raises:
            FetchError: It is not here, or the disk no longer holds what was written; it is removed then.
        """
        path = self._root / digest
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise FetchError("integrity", f"chunk {digest} is not on this disk") from None
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink()
            raise FetchError("integrity", f"chunk {digest} changed on this disk; it was removed")
        return data

    def harvest(self, pinned: PinnedFile, root: Path, wanted: Collection[str]) -> int:
        """Take those of the *wanted* chunks that the file *pinned* under *root* holds; returns how many."""
        taken = 0
        try:
            with (root / pinned.file).open("rb") as file:
                for position, digest in enumerate(chunks_of(pinned)):
                    if digest not in wanted or self.has(digest):
                        continue
                    file.seek(position * pinned.chunk_size)
                    taken += self.put(digest, file.read(pinned.chunk_size if pinned.chunks else pinned.size))
        except FileNotFoundError:
            return taken
        return taken

    def assemble(self, pinned: PinnedFile, root: Path) -> Path:
        """Write the file *pinned* into directory *root* from its chunks, durably.

        Raises:
            FetchError: A chunk is absent or changed, or the whole is not what the manifest pins.
        """
        path = root / pinned.file
        with path.open("wb") as file:
            for digest in chunks_of(pinned):
                file.write(self.read(digest))
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(root)
        try:
            pinned.verify(root)
        except ArtifactError as error:
            path.unlink()
            raise FetchError("integrity", str(error)) from None
        return path

    def prune(self, keep: Collection[str]) -> None:
        """Remove every chunk that is not in *keep*, and what a crash left behind."""
        for path in self._paths():
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every chunk."""
        self.prune(())

    def _paths(self) -> Iterator[Path]:
        return (path for path in self._root.iterdir() if path.is_file())
