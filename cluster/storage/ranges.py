"""Random access to an object by range requests, with read-ahead and bounded memory.

Rules:
    * The end of the file, where Parquet has its footer, comes with the first request for any of it.
    * Of the ranges that are expected, those that lie close together are one request, those that are long are
      several; while one piece is used the next ones are on their way.
    * At most `KEPT` pieces of at most `PIECE` bytes are held.
    * Every request names the object's etag: what is read is one version of it, or an error.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cluster.errors import InputChangedError
from cluster.storage.base import Entry

__all__ = ["RangeFile", "pieces_of"]

TAIL = 1 << 16  # bytes that Arrow reads for a footer
GAP = 1 << 20  # bytes that are rather read than skipped by another request
PIECE = 4 << 20  # bytes of a request
AHEAD = 2  # pieces that are on their way
KEPT = 8

Range = tuple[int, int]  # start, stop


def pieces_of(ranges: Sequence[Range]) -> list[Range]:
    """Return what to request for *ranges*: ascending, without overlap, none longer than `PIECE`."""
    joined: list[Range] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= GAP:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        elif start < stop:
            joined.append((start, stop))
    return [(at, min(at + PIECE, stop)) for start, stop in joined for at in range(start, stop, PIECE)]


class RangeFile:
    """An object as a file that Arrow can read; see the rules above."""

    def __init__(self, *, entry: Entry, where: str, fetch: Callable[[int, int], bytes]) -> None:
        """Read the object *entry*, called *where* in errors, by *fetch* (start, stop)."""
        self.entry = entry
        self.closed = False
        self._where = where
        self._fetch = fetch
        self._position = 0
        self._pieces: list[Range] = [(max(0, entry.size - TAIL), entry.size)] if entry.size else []
        self._held: OrderedDict[Range, Future[bytes]] = OrderedDict()
        self._executor = ThreadPoolExecutor(AHEAD + 1, thread_name_prefix="range")
        self._lock = threading.Lock()

    @property
    def source(self) -> Any:
        """What `pyarrow.parquet.ParquetFile` opens."""
        import pyarrow as pa

        return pa.PythonFile(self, mode="r")

    def expect(self, ranges: Sequence[Range]) -> None:
        """Take note of what will be read."""
        with self._lock:
            self._pieces = pieces_of(ranges)

    def read(self, size: int = -1) -> bytes:
        """Return *size* bytes from the position on, fewer at the end; all that follow if negative."""
        left = self.entry.size - self._position
        stop = self._position + (left if size < 0 else min(size, left))
        parts = []
        while self._position < stop:
            part = self._part(self._position, stop)
            parts.append(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, start: int, stop: int) -> bytes:
        """Return some bytes from *start* on, up to *stop* at most."""
        with self._lock:
            place = bisect.bisect_right(self._pieces, (start, self.entry.size)) - 1
            expected = place >= 0 and start < self._pieces[place][1]
            if expected:
                future = self._hold(self._pieces[place])
                for ahead in self._pieces[place + 1 : place + 1 + AHEAD]:
                    self._hold(ahead)
        if not expected:
            next_one = self._pieces[place + 1][0] if place + 1 < len(self._pieces) else stop
            return self._get(start, min(stop, next_one))
        first, last = self._pieces[place]
        data = future.result()
        return data if (first, last) == (start, stop) else data[start - first : min(stop, last) - first]

    def _hold(self, piece: Range) -> Future[bytes]:
        """Return *piece*, which is on its way from now on; the piece longest unused is let go."""
        future = self._held.pop(piece, None) or self._executor.submit(self._get, *piece)
        self._held[piece] = future
        while len(self._held) > KEPT:
            self._held.popitem(last=False)[1].cancel()
        return future

    def _get(self, start: int, stop: int) -> bytes:
        from obstore.exceptions import PreconditionError

        try:
            return self._fetch(start, stop)
        except (PreconditionError, FileNotFoundError):
            raise InputChangedError(
                f"{self._where} changed after the job was planned; put the old object back, or write to a new output"
            ) from None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        self._position = offset + (0, self._position, self.entry.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Return ``True``."""
        return True

    def seekable(self) -> bool:
        """Return ``True``."""
        return True

    def unchanged(self) -> bool:
        """Return ``True``: every request named the etag."""
        return True

    def close(self) -> None:
        """Let go of everything."""
        self.closed = True
        with self._lock:
            for future in self._held.values():
                future.cancel()
            self._held.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)
