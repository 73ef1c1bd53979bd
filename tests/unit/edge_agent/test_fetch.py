"""Fetching chunks from an in-memory bus: lost, damaged, absent, cut, resumed, reused."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from edge_agent.bus import Incoming
from edge_agent.chunks import ChunkStore
from edge_agent.errors import DisconnectedError, FetchError
from edge_agent.fetch import Fetcher, Patience
from runtime.protocol.messages import BLOB_WINDOW, BlobRequest
from runtime.protocol.topics import FleetTopics

TOPICS = FleetTopics("lab")
CHUNKS = {hashlib.sha256(data).hexdigest(): data for data in (b"chunk %d" % number for number in range(20))}
QUICK = Patience(timeout=0.02, timeout_most=0.05, attempts=3)


class _Inbox:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Incoming | None] = asyncio.Queue()

    async def get(self) -> Incoming:
        message = await self.queue.get()
        if message is None:
            raise DisconnectedError("lost")
        return message


class MemoryBus:
    """A bus whose other end has *blobs*; *mangle* may change, double or swallow what it sends."""

    def __init__(self, blobs, mangle=lambda _digest, _asked, payload: [payload]) -> None:
        self.blobs = blobs
        self.mangle = mangle
        self.asked: Counter[str] = Counter()
        self.windows: list[tuple[str, ...]] = []
        self.up = asyncio.Event()
        self.up.set()
        self._inboxes: dict[str, _Inbox] = {}

    async def connected(self) -> None:
        await self.up.wait()

    async def publish(self, topic, payload, *, qos=1, retain=False) -> None:
        if not self.up.is_set():
            raise DisconnectedError("down")
        assert (topic, qos, retain) == (TOPICS.blob_requests, 1, False)
        request = BlobRequest.parse(payload)
        assert request.device == "cam1"
        self.windows.append(request.digests)
        for digest in request.digests:
            self.asked[digest] += 1
            for sent in self.mangle(digest, self.asked[digest], self.blobs.get(digest, b"")):
                self.deliver(digest, sent)

    def deliver(self, digest: str, payload: bytes) -> None:
        topic = TOPICS.blob(digest)
        if topic in self._inboxes:  # only who subscribed gets it
            self._inboxes[topic].queue.put_nowait(Incoming(topic, payload))

    def cut(self) -> None:
        self.up.clear()
        for inbox in self._inboxes.values():
            inbox.queue.put_nowait(None)

    @asynccontextmanager
    async def listen(self, topics):
        if not self.up.is_set():
            raise DisconnectedError("down")
        inbox = _Inbox()
        self._inboxes |= dict.fromkeys(topics, inbox)
        yield inbox
        for topic in topics:
            del self._inboxes[topic]


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "chunks")


def fetcher(bus, store, patience=QUICK) -> Fetcher:
    return Fetcher(bus, store, topics=TOPICS, device="cam1", patience=patience)


async def test_everything_comes_in_windows_each_chunk_once(store):
    bus = MemoryBus(CHUNKS)
    assert await fetcher(bus, store).fetch([*CHUNKS, *CHUNKS]) == len(CHUNKS)
    assert {digest: store.read(digest) for digest in CHUNKS} == CHUNKS
    assert set(bus.asked.values()) == {1}
    assert [len(window) for window in bus.windows] == [BLOB_WINDOW, BLOB_WINDOW, 4]


async def test_what_is_on_the_disk_is_not_asked_for(store):
    here = list(CHUNKS)[::2]
    for digest in here:
        store.put(digest, CHUNKS[digest])
    bus = MemoryBus(CHUNKS)
    assert await fetcher(bus, store).fetch(CHUNKS) == len(CHUNKS) - len(here)
    assert not set(here) & set(bus.asked)


async def test_nothing_is_asked_for_when_nothing_lacks(store):
    bus = MemoryBus({})
    assert await fetcher(bus, store).fetch([]) == 0
    assert bus.windows == []


async def test_lost_and_damaged_chunks_are_asked_for_again(store):
    lost, damaged = list(CHUNKS)[3], list(CHUNKS)[9]

    def mangle(digest, asked, payload):
        if asked == 1 and digest == lost:
            return []
        return [payload + b"!"] if asked == 1 and digest == damaged else [payload]

    bus = MemoryBus(CHUNKS, mangle)
    await fetcher(bus, store).fetch(CHUNKS)
    assert {digest: store.read(digest) for digest in CHUNKS} == CHUNKS
    assert {digest for digest, count in bus.asked.items() if count > 1} == {lost, damaged}


async def test_a_good_copy_after_a_damaged_one_is_taken_without_asking_again(store):
    bus = MemoryBus(CHUNKS, lambda _digest, _asked, payload: [b"damaged", payload, payload])
    await fetcher(bus, store, Patience(timeout=5)).fetch(CHUNKS)
    assert set(bus.asked.values()) == {1}


async def test_an_absent_chunk_is_final_and_at_once(store):
    absent = "0" * 64
    bus = MemoryBus(CHUNKS)
    with pytest.raises(FetchError, match=f"{absent} does not exist") as caught:
        await fetcher(bus, store, Patience(timeout=60)).fetch([*CHUNKS, absent])
    assert caught.value.code == "download"
    assert bus.asked[absent] == 1


@pytest.mark.parametrize(
    ("answer", "code"), [([], "download"), ([b"damaged"], "integrity")], ids=["silence", "only damaged ones"]
)
async def test_attempts_are_bounded_and_what_came_is_kept(store, answer, code):
    good = set(list(CHUNKS)[:10])
    bus = MemoryBus(CHUNKS, lambda digest, _asked, payload: [payload] if digest in good else answer)
    with pytest.raises(FetchError, match="10 of 20 chunks did not come in 3 attempts") as caught:
        await fetcher(bus, store).fetch(CHUNKS)
    assert caught.value.code == code
    assert all(store.has(digest) for digest in good)


async def test_a_cut_costs_at_most_a_window_and_no_attempt(store):
    bus = MemoryBus(CHUNKS)

    def mangle(digest, asked, payload):
        if asked == 1 and digest in list(CHUNKS)[BLOB_WINDOW:]:
            asyncio.get_running_loop().call_soon(bus.cut)
            return []
        return [payload]

    bus.mangle = mangle
    task = asyncio.create_task(fetcher(bus, store, Patience(timeout=0.5, attempts=1)).fetch(CHUNKS))
    for _ in range(4):  # more often than there are attempts
        await asyncio.sleep(0.3)
        bus.up.set()
    assert await asyncio.wait_for(task, 5) == len(CHUNKS)
    assert max(bus.asked.values()) == 2
    assert all(bus.asked[digest] == 1 for digest in list(CHUNKS)[:BLOB_WINDOW])


async def test_a_device_without_a_connection_waits(store):
    bus = MemoryBus(CHUNKS)
    bus.up.clear()
    task = asyncio.create_task(fetcher(bus, store).fetch(CHUNKS))
    await asyncio.sleep(0.3)
    assert (task.done(), bus.windows) == (False, [])
    bus.up.set()
    assert await asyncio.wait_for(task, 5) == len(CHUNKS)


def test_patience_doubles_up_to_its_bound():
    patience = Patience(timeout=5, timeout_most=60)
    assert [patience.wait(attempt) for attempt in range(6)] == [5, 10, 20, 40, 60, 60]
