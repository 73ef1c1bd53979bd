"""Batches on their way into a session that overlaps them; the CPU stands for the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from color_model import picture, write_rows

from cluster.planning import plan_job
from cluster.worker.batches import Filling, Turns
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads
from runtime import hostmemory
from runtime import session as session_module
from runtime.errors import ImageError, ModelError
from runtime.hostmemory import HostMemory
from runtime.preparation import Preparation
from runtime.providers import find

PATIENCE = 10  # seconds


class Locks:
    """Locks no pages, but counts them."""

    def __init__(self) -> None:
        self.locked: list[int] = []

    def lock(self, address: int, _size: int) -> str:
        self.locked.append(address)
        return ""

    def unlock(self, address: int) -> None:
        """Nothing was."""


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Locks:
    """The CPU as a device with memory of its own, to which batches are copied from locked pages."""
    locks = Locks()
    monkeypatch.setattr(session_module, "find", lambda name: replace(find(name), memory="cpu"))
    monkeypatch.setattr(hostmemory, "MADE", {"cpu": lambda: HostMemory(locks)})
    return locks


def test_a_device_of_its_own_memory_gives_the_rows_of_any_other(options, tmp_path, request):
    write_rows(tmp_path / "in.parquet", 1500, bad={2: b"", 900: b"no image at all", 1499: None})
    found = []
    for name in ("plain", "device"):
        job = plan_job(options(keep=("number",), batch_size=None, shard_rows=500, output=str(tmp_path / name)))
        job.output.claim(job.record)
        worker = ShardWorker(job.models, job.spec, Threads(decode=2))
        commits = [worker.run(shard) for shard in job.shards]
        paths = [Path(job.output.uri) / commit.data.path for commit in commits]
        found.append([row for path in paths for row in pq.read_table(path).to_pylist()])
        said = commits[-1].ran_on.get("host_memory")
        if name == "plain":
            assert said is None
            locks = request.getfixturevalue("locks")
        else:
            assert said == "page-locked"
            assert worker._models[0].predictor.in_flight == 2
            assert 0 < len(locks.locked) < 100  # of about as many batches: pages are used again
    assert found[0] == found[1]
    assert [row["number"] for row in found[1]] == [n for n in range(1500) if n not in {2, 900, 1499}]


def test_batches_overlap_once_sizes_are_settled_and_keep_their_order():
    settled, inside, most = False, 0, 0
    lock = threading.Lock()
    turns = Turns(1, 2, lambda: settled)

    def infer(number: int) -> int:
        nonlocal inside, most
        with turns.turn():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02 if number % 2 else 0.005)
            with lock:
                inside -= 1
        return number

    def items(count: int) -> Iterator[int]:
        yield from range(count)

    assert list(turns.map(infer, items(8))) == list(range(8))
    assert most == 1
    settled = True
    assert list(turns.map(infer, items(20))) == list(range(20))
    assert most == 2


def test_a_worker_that_stands_for_several_waits_for_none_of_them():
    turns = Turns(2, 1, lambda: False)
    both = threading.Barrier(2, timeout=PATIENCE)
    done = []

    def infer() -> None:
        with turns.turn():
            both.wait()
            done.append(True)

    threads = [threading.Thread(target=infer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert done == [True, True]


def test_an_error_of_a_batch_comes_where_its_answer_would_have():
    turns = Turns(1, 2, lambda: True)

    def infer(number: int) -> int:
        if number == 3:
            raise ModelError("the third")
        return number

    answers = turns.map(infer, (number for number in range(9)))
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ModelError, match="the third"):
        next(answers)


def test_a_filling_is_what_stacking_gives_and_a_picture_that_is_refused_leaves_no_gap(artifact, monkeypatch):
    preparation = Preparation.of(artifact.manifest, "fp32")
    pictures = [preparation.load(picture(number % 3, 100 + number)).pixels for number in range(4)]
    filling = Filling(preparation, 6)
    assert filling.batch is None
    real = Preparation.prepare

    def refusing(self, image, out=None):
        if image is pictures[2]:
            raise ImageError("too_large", "it grew")
        return real(self, image, out)

    monkeypatch.setattr(Preparation, "prepare", refusing)
    for one in pictures:
        try:
            filling.add(one)
        except ImageError:
            assert one is pictures[2]
    expected = np.stack([real(preparation, one) for one in (pictures[0], pictures[1], pictures[3])])
    np.testing.assert_array_equal(filling.batch, expected)
