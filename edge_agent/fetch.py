"""Chunks pulled over the bus, a window at a time (DESIGN.md §5).

Rules:
    * Only what is not on the disk is asked for; every chunk is checked and kept at once.
    * The exact topics of one window are subscribed before the window is asked for.
    * An empty payload is the answer "there is none": final, code `download`.
    * What does not come within the timeout, or comes damaged, is asked for again; the timeout doubles
      with every window that brings nothing, and after `Patience.attempts` of them it is over.
    * Time without a connection costs no attempt: a device may be off the network for a month.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge_agent.bus import Bus, Incoming
from edge_agent.chunks import ChunkStore
from edge_agent.errors import DisconnectedError, FetchError
from runtime.logs import get_logger
from runtime.protocol.messages import BLOB_WINDOW, BlobRequest
from runtime.protocol.topics import BlobTopic, FleetTopics

__all__ = ["Fetcher", "Patience"]

_log = get_logger("vedette.agent.fetch")

_BREATH = 0.2  # seconds until the loss of a connection is known to everybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a device waits for chunks."""

    timeout: float = 5.0  # seconds without a chunk until the rest of the window is asked for again
    timeout_most: float = 60.0  # seconds; the timeout doubles up to this
    attempts: int = 8  # windows in a row that may bring nothing

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait in a window after *attempt* of them brought nothing."""
        return min(self.timeout * 2.0**attempt, self.timeout_most)


@dataclass(slots=True)
class _Window:
    """What one window brought."""

    kept: int = 0
    damaged: int = 0


class Fetcher:
    """Bring chunks from the bus to the disk."""

    def __init__(
        self, bus: Bus, chunks: ChunkStore, *, topics: FleetTopics, device: str, patience: Patience | None = None
    ) -> None:
        self._bus = bus
        self._chunks = chunks
        self._topics = topics
        self._device = device
        self._patience = patience or Patience()

    async def fetch(self, digests: Collection[str]) -> int:
        """Return once every chunk of *digests* is on the disk; returns how many were fetched.

        Raises:
            FetchError: A chunk does not exist or does not come (`download`), or comes damaged again
                and again (`integrity`).
        """
        lacking = self._chunks.lacking(digests)
        wanted, idle = len(lacking), 0
        while lacking:
            window = _Window()
            try:
                await self._bus.connected()
                await self._window(lacking[:BLOB_WINDOW], self._patience.wait(idle), window)
            except DisconnectedError:
                _log.info("connection lost in a download", lacking=len(lacking))
                await asyncio.sleep(_BREATH)
            else:
                idle = 0 if window.kept else idle + 1
            lacking = self._chunks.lacking(lacking)
            if idle >= self._patience.attempts:
                raise FetchError(
                    "integrity" if window.damaged else "download",
                    f"{len(lacking)} of {wanted} chunks did not come in {idle} attempts"
                    + (f", {window.damaged} came damaged in the last" if window.damaged else "")
                    + f"; the next is {lacking[0]}",
                )
        return wanted

    async def _window(self, digests: Sequence[str], patience: float, window: _Window) -> None:
        """Ask for *digests* once and keep what comes, until all came or *patience* ran out."""
        request = BlobRequest(device=self._device, digests=tuple(digests))
        async with self._bus.listen([self._topics.blob(digest) for digest in digests]) as inbox:
            await self._bus.publish(self._topics.blob_requests, request.to_bytes(), qos=1)
            missing = set(digests)
            while missing:
                try:
                    async with asyncio.timeout(patience):  # for the wait alone: a slow disk is no lost chunk
                        message = await inbox.get()
                except TimeoutError:
                    return
                await self._keep(message, missing, window)

    async def _keep(self, message: Incoming, missing: set[str], window: _Window) -> None:
        """Keep the chunk in *message* and take it from *missing*; a damaged one stays missing."""
        digest = BlobTopic.parse(message.topic).sha256
        if digest not in missing:
            return  # a second copy: another device asked for it too
        if not message.payload:
            raise FetchError("download", f"chunk {digest} does not exist: the controller has none of that digest")
        if await asyncio.to_thread(self._chunks.put, digest, message.payload):
            window.kept += 1
            missing.remove(digest)
        else:
            window.damaged += 1
            _log.warning("damaged chunk", digest=digest, size=len(message.payload))
