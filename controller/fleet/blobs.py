"""Chunks of published models, answered once for all devices that want them at that time (DESIGN.md §5).

Rules:
    * What can be asked for is what the store's manifests pin, and the manifests themselves.
    * Requests for one digest within `WINDOW` are one answer; so are those that come while it waits
      for its turn. The broker does the fan-out.
    * An unknown digest is answered with an empty payload, which ends a device's update; so nothing is
      assigned before its chunks are known (`BlobServer.offer`).
    * A token bucket caps the rate; the number of digests that wait is bounded, and what does not
      fit is dropped: a device asks again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from runtime.errors import ManifestError, ModelNotFoundError, VedetteError
from runtime.logs import get_logger
from runtime.manifest import Manifest
from runtime.store import ModelStore

__all__ = ["BlobServer", "ChunkIndex", "TokenBucket"]

log = get_logger("vedette.blobs")

WINDOW = 0.02  # seconds within which requests for one chunk are one answer
MAX_WAITING = 8_192  # digests
DEFAULT_RATE = 100_000_000  # bytes a second


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is: bytes *start* to *start + length* of a file in the store, or *inline*."""

    blob: str
    start: int
    length: int
    inline: bytes | None = None


class ChunkIndex:
    """Which digest is found where, from the manifests of a store."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._places: dict[str, Place] = {}
        self._indexed: set[tuple[str, int]] = set()

    def scan(self) -> None:
        """Index what was published since the last scan; a manifest that is not valid is skipped and logged."""
        for name in self._store.names():
            for version in self._store.versions(name):
                if (name, version) in self._indexed:
                    continue
                data = self._store.manifest_bytes(name, version)
                self._indexed.add((name, version))
                try:
                    self._index(data)
                except ManifestError as error:
                    log.warning("a published manifest is not valid", model=f"{name}@{version}", reason=str(error))

    def _index(self, data: bytes) -> None:
        self._places[hashlib.sha256(data).hexdigest()] = Place("", 0, len(data), data)
        for file in Manifest.parse(data).files:
            for number, digest in enumerate(file.chunks):
                start = number * file.chunk_size
                length = min(file.chunk_size, file.size - start)
                self._places.setdefault(digest, Place(file.sha256, start, length))

    def knows(self, digest: str) -> bool:
        """Whether the chunk *digest* was found in the last scan."""
        return digest in self._places

    def read(self, digest: str) -> bytes:
        """Return the chunk *digest*; empty if there is none."""
        place = self._places.get(digest)
        if place is None:
            return b""
        if place.inline is not None:
            return place.inline
        return self._store.read_blob(place.blob, place.start, place.length)


@dataclass(slots=True, kw_only=True)
class TokenBucket:
    """A rate with a burst of one second; the clock is an argument.

    Attributes:
        rate: Bytes a second.
        clock: Monotonic seconds.
    """

    rate: float
    clock: Callable[[], float] = time.monotonic
    _level: float = field(init=False)
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._since = self.rate, self.clock()

    def take(self, size: int) -> float:
        """Take *size* bytes, and return for how many seconds to wait before they may be sent."""
        now = self.clock()
        self._level = min(self.rate, self._level + (now - self._since) * self.rate) - size
        self._since = now
        return max(0.0, -self._level / self.rate)


class BlobServer:
    """Answer requests for chunks, each once for all who want it."""

    def __init__(
        self,
        index: ChunkIndex,
        publish: Callable[[str, bytes], Awaitable[None]],
        *,
        rate: float = DEFAULT_RATE,
    ) -> None:
        self._index = index
        self._publish = publish  # (digest, payload): to the chunk's topic, QoS 0
        self._bucket = TokenBucket(rate=rate)
        self._waiting: dict[str, float] = {}  # digest -> when its window ends; in order of arrival
        self._arrived = asyncio.Event()
        self.asked = 0  # digests that devices asked for
        self.sent = 0  # answers

    def offer(self, manifest_digest: str) -> None:
        """Make sure that the model of that manifest can be asked for; blocks while it looks.

        Raises:
            ModelNotFoundError: The store has no such manifest.
        """
        if not self._index.knows(manifest_digest):
            self._index.scan()
        if not self._index.knows(manifest_digest):
            raise ModelNotFoundError(f"no manifest with SHA-256 {manifest_digest} in the artifact store")

    def ask(self, digests: Iterable[str]) -> None:
        """Note that a device wants *digests*."""
        due = time.monotonic() + WINDOW
        for digest in digests:
            self.asked += 1
            if digest in self._waiting or len(self._waiting) < MAX_WAITING:
                self._waiting.setdefault(digest, due)
        self._arrived.set()

    async def run(self) -> None:
        """Answer for ever."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                digest, due = next(iter(self._waiting.items()))
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._answer(digest)
            self._arrived.clear()

    async def _answer(self, digest: str) -> None:
        try:
            data = await asyncio.to_thread(self._index.read, digest)
        except (VedetteError, OSError) as error:  # the device asks again; the store may be back by then
            self._waiting.pop(digest)
            log.warning("a chunk cannot be read", digest=digest, reason=str(error))
            return
        await asyncio.sleep(self._bucket.take(len(data)))
        self._waiting.pop(digest)  # who asks from here on may have subscribed too late for this answer
        self.sent += 1
        await self._publish(digest, data)
