"""Images that a column names by URL: fetched many at a time, within limits.

Rules:
    * At most ``concurrency`` are on their way at a time, whatever number of shards waits for them.
    * An object that is not there, that may not be read by its URL, or is too large is a bad row, with its reason.
    * A store or server that does not answer, after all retries, is a failure of the shard (`StorageError`):
      it says nothing about the row.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from cluster.errors import StorageError
from cluster.storage.bucket import Bucket
from cluster.storage.retry import waits
from runtime.errors import ImageError
from runtime.objects import Patience

if TYPE_CHECKING:
    import httpx

__all__ = ["FETCH_LIMITS", "FetchLimits", "Fetched", "Fetcher"]

HTTP_RETRIES = 5
BUSY = frozenset({408, 425, 429})  # answers below 500 that another try may change

Fetched = bytes | ImageError
B = TypeVar("B")
C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How images are fetched.

    Attributes:
        concurrency: At most so many at a time in one worker.
        timeout: Seconds to connect, and between two parts of an answer.
        size: Bytes that an image may have.
        patience: How long a store that does not answer is asked again.
    """

    concurrency: int = 16
    timeout: float = 30.0
    size: int = 128 * 1024**2
    patience: Patience = field(default_factory=Patience)


FETCH_LIMITS = FetchLimits()


class Fetcher:
    """Fetches images by URL."""

    def __init__(self, limits: FetchLimits) -> None:
        """Fetch within *limits*."""
        self.limits = limits
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        executor = ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="fetch")
        weakref.finalize(self, executor.shutdown, wait=False)
        return executor

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        client = httpx.Client(follow_redirects=True, timeout=self.limits.timeout)
        weakref.finalize(self, client.close)
        return client

    def start(self, url: str) -> Future[Fetched]:
        """Begin to fetch *url*; the result is its bytes, or what is wrong with the row.

        The future raises `StorageError` if the store or server does not answer.
        """
        with self._lock:
            return self._executor.submit(self.fetch, url)

    def ahead(self, blocks: Iterable[tuple[B, Sequence[C | str]]]) -> Iterator[tuple[B, list[C | Fetched]]]:
        """Yield *blocks* with what their URLs name; those of the next blocks are on their way, within a bound.

        Raises:
            StorageError: A store or server does not answer.
        """
        waiting: deque[tuple[B, list[C | Future[Fetched]]]] = deque()
        started = 0
        try:
            for block, cells in blocks:
                begun: list[C | Future[Fetched]] = [self.start(one) if isinstance(one, str) else one for one in cells]
                waiting.append((block, begun))
                started += _number(begun)
                while waiting and (started == 0 or started > 2 * self.limits.concurrency):
                    done, begun = waiting.popleft()
                    started -= _number(begun)
                    yield done, _settled(begun)
            while waiting:
                done, begun = waiting.popleft()
                yield done, _settled(begun)
        finally:
            for _, begun in waiting:
                for one in begun:
                    if isinstance(one, Future):
                        one.cancel()

    def fetch(self, url: str) -> Fetched:
        """Return what is at *url*; see `start`."""
        fetch = SCHEMES.get(url.partition("://")[0].lower())
        if fetch is None:
            return ImageError("missing", f"{url}: not a scheme that can be fetched; these are: {', '.join(SCHEMES)}")
        try:
            return fetch(self, url)
        except ImageError as error:
            return error

    def _bucket(self, place: str) -> Bucket:
        with self._lock:
            if place not in self._buckets:
                self._buckets[place] = Bucket.at(place, self.limits.patience)
            return self._buckets[place]

    def from_bucket(self, url: str) -> bytes:
        """Return an object of an object store."""
        scheme, _, rest = url.partition("://")
        name, _, key = rest.partition("/")
        bucket = self._bucket(f"{scheme}://{name}")

        def get() -> bytes:
            found = bucket.objects.get(key)
            self._check_size(url, found.meta["size"])
            return bytes(found.bytes())

        try:
            return bucket.answered(key, get)
        except FileNotFoundError:
            raise ImageError("missing", f"{url} does not exist") from None

    def from_web(self, url: str) -> bytes:
        """Return what a web server answers."""
        import httpx

        pauses = waits(self.limits.patience, HTTP_RETRIES)
        while True:
            try:
                return self._get(url)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise ImageError("missing", f"{url}: {error}") from None
            except (httpx.TransportError, _Busy) as error:
                pause = next(pauses, None)
                if pause is None:
                    raise StorageError(f"{url}: the server failed: {error or type(error).__name__}") from None
                time.sleep(pause)

    def _get(self, url: str) -> bytes:
        with self._client.stream("GET", url) as answer:
            if answer.status_code >= 500 or answer.status_code in BUSY:
                raise _Busy(f"HTTP {answer.status_code} {answer.reason_phrase}")
            if answer.status_code >= 400:
                raise ImageError("missing", f"{url}: HTTP {answer.status_code} {answer.reason_phrase}")
            self._check_size(url, int(answer.headers.get("content-length", 0)))
            return b"".join(self._bounded(url, answer.iter_bytes()))

    def _bounded(self, url: str, parts: Iterator[bytes]) -> Iterator[bytes]:
        size = 0
        for part in parts:
            size += len(part)
            self._check_size(url, size)
            yield part

    def _check_size(self, url: str, size: int) -> None:
        if size > self.limits.size:
            raise ImageError("too_large", f"{url} has {size} bytes or more; at most {self.limits.size} are fetched")


def _number(begun: Sequence[object]) -> int:
    return sum(isinstance(one, Future) for one in begun)


def _settled(begun: Sequence[C | Future[Fetched]]) -> list[C | Fetched]:
    return [one.result() if isinstance(one, Future) else one for one in begun]


class _Busy(Exception):  # noqa: N818 - never leaves this module
    """An answer that another try may change."""


SCHEMES: Mapping[str, Callable[[Fetcher, str], bytes]] = {
    **dict.fromkeys(("s3", "s3a", "gs", "az", "abfs", "abfss"), Fetcher.from_bucket),
    **dict.fromkeys(("https", "http"), Fetcher.from_web),
}
"""How a URL is fetched; ``file://`` and paths are read where they are decoded."""
