"""Chunks on the disk: checked in, checked out, reused."""

from __future__ import annotations

import hashlib

import pytest

from edge_agent.chunks import ChunkStore, chunks_of
from edge_agent.errors import FetchError
from runtime.manifest import PinnedFile

DATA = bytes(range(256)) * 10  # 2,560 bytes: 2 chunks of 1,000 and one of 560


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "chunks")


@pytest.fixture
def pinned(tmp_path):
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "model.onnx").write_bytes(DATA)
    return PinnedFile(**PinnedFile.measure(tmp_path / "origin" / "model.onnx", 1000))


def fill(store: ChunkStore, pinned: PinnedFile) -> None:
    for position, digest in enumerate(pinned.chunks):
        assert store.put(digest, DATA[position * 1000 : (position + 1) * 1000])


def test_only_what_hashes_to_its_name_is_kept(store):
    digest = hashlib.sha256(b"right").hexdigest()
    assert not store.put(digest, b"wrong")
    assert not store.has(digest)
    assert store.put(digest, b"right")
    assert store.read(digest) == b"right"


def test_a_file_is_assembled_and_is_the_pinned_one(store, pinned, tmp_path):
    fill(store, pinned)
    (tmp_path / "slot").mkdir()
    assert store.assemble(pinned, tmp_path / "slot").read_bytes() == DATA


def test_a_chunk_that_the_disk_changed_is_found_and_removed(store, pinned, tmp_path):
    fill(store, pinned)
    (tmp_path / "chunks" / pinned.chunks[1]).write_bytes(b"rot")
    with pytest.raises(FetchError, match="changed on this disk") as caught:
        store.assemble(pinned, tmp_path)
    assert caught.value.code == "integrity"
    assert store.lacking(pinned.chunks) == [pinned.chunks[1]]


def test_a_file_whose_chunks_fit_but_whose_whole_does_not_is_refused(store, pinned, tmp_path):
    fill(store, pinned)
    wrong = pinned.model_copy(update={"chunks": pinned.chunks[::-1]})
    with pytest.raises(FetchError, match="the manifest pins"):
        store.assemble(wrong, tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_chunks_of_a_file_that_is_here_are_taken_and_rotten_ones_are_not(store, pinned, tmp_path):
    damaged = bytearray(DATA)
    damaged[1500] ^= 1
    (tmp_path / "origin" / "model.onnx").write_bytes(damaged)
    wanted = {pinned.chunks[0], pinned.chunks[1]}
    assert store.harvest(pinned, tmp_path / "origin", wanted) == 1
    assert store.lacking(pinned.chunks) == [pinned.chunks[1], pinned.chunks[2]]
    assert store.harvest(pinned, tmp_path / "nowhere", set(pinned.chunks)) == 0


def test_pruning_keeps_what_is_wanted(store, pinned):
    fill(store, pinned)
    store.prune({pinned.chunks[0]})
    assert store.lacking(pinned.chunks) == list(pinned.chunks[1:])
    store.clear()
    assert store.lacking(pinned.chunks) == list(pinned.chunks)


def test_a_file_without_a_list_is_one_chunk_and_an_empty_one_none(pinned):
    assert chunks_of(pinned.model_copy(update={"chunks": ()})) == (pinned.sha256,)
    assert chunks_of(pinned.model_copy(update={"chunks": (), "size": 0})) == ()
