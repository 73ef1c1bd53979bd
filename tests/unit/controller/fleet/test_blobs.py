from __future__ import annotations

import asyncio
import contextlib
import hashlib

import pytest
from color_model import write_artifact
from hypothesis import given
from hypothesis import strategies as st

from controller.fleet import blobs
from controller.fleet.blobs import BlobServer, ChunkIndex, TokenBucket
from controller.registry.publish import publish
from runtime.errors import ModelNotFoundError
from runtime.manifest import Manifest
from runtime.store import ModelStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    opened = ModelStore.open(root / "store")
    artifact = write_artifact(root / "artifact")
    publish(opened, artifact.root, artifact.manifest)
    return opened


@pytest.fixture
def manifest(store):
    return Manifest.parse(store.manifest_bytes("color", 1))


@contextlib.asynccontextmanager
async def serving(store, **options):
    """A running server; yields it and the list of what it published."""
    published = []

    async def publish_chunk(digest, data):
        published.append((digest, data))

    server = BlobServer(ChunkIndex(store), publish_chunk, **options)
    server.offer(manifest_digest(store))
    task = asyncio.create_task(server.run())
    yield server, published
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def manifest_digest(store):
    return hashlib.sha256(store.manifest_bytes("color", 1)).hexdigest()


async def until(look):
    async with asyncio.timeout(5):
        while not look():  # noqa: ASYNC110 - it looks at what the server under test did
            await asyncio.sleep(0.005)


async def test_every_chunk_and_the_manifest_come_with_their_own_digest(store, manifest):
    wanted = [manifest.digest, *(digest for file in manifest.files for digest in file.chunks)]
    async with serving(store) as (server, published):
        server.ask(wanted)
        await until(lambda: len(published) == len(set(wanted)))
    assert {digest for digest, _ in published} == set(wanted)
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in published)


async def test_requests_of_many_devices_at_one_time_are_one_answer(store, manifest):
    async with serving(store) as (server, published):
        for _device in range(1000):
            server.ask([manifest.digest])
        await until(lambda: published)
        await asyncio.sleep(3 * blobs.WINDOW)
        assert len(published) == 1
        server.ask([manifest.digest])
        await until(lambda: len(published) == 2)
    assert (server.asked, server.sent) == (1001, 2)


async def test_an_unknown_digest_is_answered_with_nothing(store):
    async with serving(store) as (server, published):
        server.ask(["f" * 64])
        await until(lambda: published)
    assert published == [("f" * 64, b"")]


async def test_a_chunk_that_cannot_be_read_is_no_answer_and_holds_up_nothing(store, manifest, monkeypatch):
    def broken(*_arguments):
        raise OSError("the disk is gone")

    async with serving(store) as (server, published):
        monkeypatch.setattr(ModelStore, "read_blob", broken)
        server.ask([manifest.files[0].chunks[0], manifest.digest])
        await until(lambda: published)
    assert [digest for digest, _ in published] == [manifest.digest]


async def test_what_waits_is_bounded(store, monkeypatch):
    monkeypatch.setattr(blobs, "MAX_WAITING", 3)
    async with serving(store) as (server, published):
        server.ask([f"{i:064x}" for i in range(10)])
        await until(lambda: len(published) == 3)
        await asyncio.sleep(3 * blobs.WINDOW)
    assert len(published) == 3


async def test_the_rate_is_kept(store, manifest):
    size = len(store.manifest_bytes("color", 1))
    chunks = [manifest.digest]
    async with serving(store, rate=size * 4) as (server, published):
        began = asyncio.get_running_loop().time()
        for count in range(1, 7):
            server.ask(chunks)
            await until(lambda count=count: len(published) == count)
        took = asyncio.get_running_loop().time() - began
    assert took > 0.4  # four at once, the other two at four a second


def test_a_model_published_later_is_known_once_it_is_offered(tmp_path):
    store = ModelStore.open(tmp_path / "store")
    index = ChunkIndex(store)
    server = BlobServer(index, lambda _digest, _data: asyncio.sleep(0))
    with pytest.raises(ModelNotFoundError, match="no manifest with SHA-256 0000"):
        server.offer("0" * 64)
    artifact = write_artifact(tmp_path / "artifact")
    published = publish(store, artifact.root, artifact.manifest)
    assert not index.knows(published.digest)
    server.offer(published.digest)
    assert index.read(published.digest) == published.to_bytes()


def test_a_damaged_manifest_in_the_store_does_not_hide_the_others(tmp_path):
    store = ModelStore.open(tmp_path / "store")
    store.objects.put("models/bad/1/manifest.json", b"{}")
    artifact = write_artifact(tmp_path / "artifact")
    published = publish(store, artifact.root, artifact.manifest)
    index = ChunkIndex(store)
    index.scan()
    assert index.knows(published.digest)


@given(sizes=st.lists(st.integers(0, 500), max_size=50), steps=st.lists(st.floats(0, 3), max_size=50))
def test_a_token_bucket_never_lets_more_through_than_its_burst_and_rate(sizes, steps):
    now = 0.0
    bucket = TokenBucket(rate=100, clock=lambda: now)
    sent = 0
    for size, step in zip(sizes, steps, strict=False):
        now += step
        now += bucket.take(size)
        sent += size
        assert sent <= 100 + 100 * now + 1e-6
