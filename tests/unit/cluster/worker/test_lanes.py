from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import closing

import pytest
from batch_runs import wait_until

from cluster.worker import lanes as module
from cluster.worker.lanes import Lanes

LIMIT = 10  # seconds


class Scene:
    """Lanes, and shards whose blocks stay in them until they may go on."""

    def __init__(self, count: int) -> None:
        self.lanes = Lanes(count)
        self.log: list[str] = []  # blocks, as they came into a lane
        self._over = False
        self._gates: defaultdict[str, threading.Event] = defaultdict(self._gate)

    def _gate(self) -> threading.Event:
        gate = threading.Event()
        if self._over:
            gate.set()
        return gate

    def end(self) -> None:
        """Let all blocks leave."""
        self._over = True
        self.let(*self._gates)

    def begin(self, name: str, blocks: int) -> list[str]:
        """Begin shard *name*; return the list that its answers come into."""
        answers: list[str] = []
        blocks_of_it = (f"{name}{number}" for number in range(blocks))
        threading.Thread(target=lambda: answers.extend(self.lanes.map(self._work, blocks_of_it)), daemon=True).start()
        return answers

    def _work(self, block: str) -> str:
        self.log.append(block)
        assert self._gates[block].wait(LIMIT)
        return block.upper()

    def let(self, *blocks: str) -> None:
        """Let *blocks* leave their lane."""
        for block in blocks:
            self._gates[block].set()

    def until(self, inside: str, waiting: int) -> None:
        """Wait until the last of the blocks *inside*, as they came, is in a lane, and so many wait for one."""
        wait_until(lambda: self.log == inside.split() and len(self.lanes._waiting) == waiting, inside, LIMIT)


@pytest.fixture
def scene(request):
    made = Scene(request.param)
    yield made
    made.end()


@pytest.mark.parametrize("scene", [2], indirect=True)
def test_no_more_blocks_than_lanes_are_computed_at_a_time_and_their_order_is_kept(scene):
    answers = {}
    for number, name in enumerate("abc"):
        answers[name] = scene.begin(name, 4)
        wait_until(lambda number=number: len(scene.log) + len(scene.lanes._waiting) >= 2 * number + 2, name, LIMIT)
    assert len(scene.log) == 2
    scene.let(*(f"{name}{number}" for name in "abc" for number in range(4)))
    for name, found in answers.items():
        wait_until(lambda found=found: len(found) == 4, f"{name} is through", LIMIT)
        assert found == [f"{name}{number}".upper() for number in range(4)]


@pytest.mark.parametrize("scene", [1], indirect=True)
def test_the_shard_that_began_first_is_next(scene):
    scene.begin("a", 3)
    scene.until("a0", waiting=1)
    scene.begin("b", 3)
    scene.until("a0", waiting=3)
    scene.let("a0")
    scene.until("a0 a1", waiting=3)  # b0, b1, and a2, which came last
    scene.let("a1")
    scene.until("a0 a1 a2", waiting=2)


@pytest.mark.parametrize("scene", [1], indirect=True)
def test_a_block_that_has_waited_long_comes_before_that(scene, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    scene.begin("a", 9)
    scene.until("a0", waiting=1)
    scene.begin("b", 1)
    scene.until("a0", waiting=2)
    scene.let("a0")
    scene.until("a0 a1", waiting=2)  # b0, and a2, which came later and is of the shard that began first
    scene.let("a1")
    scene.until("a0 a1 b0", waiting=2)


@pytest.mark.parametrize("scene", [3], indirect=True)
def test_the_last_shard_has_all_lanes(scene):
    scene.begin("a", 5)
    wait_until(lambda: sorted(scene.log) == ["a0", "a1", "a2"], "it is in every lane", LIMIT)
    scene.until(" ".join(scene.log), waiting=1)


def test_an_error_comes_where_its_block_would_have_and_leaves_the_lanes_to_others():
    lanes = Lanes(1)
    with closing(lanes.map(lambda number: 1 // number, [1, 0, 1])) as found:
        assert next(found) == 1
        with pytest.raises(ZeroDivisionError):
            next(found)
    assert list(lanes.map(abs, [-1, -2])) == [1, 2]


def test_who_asks_for_no_more_leaves_nothing_behind():
    lanes, log = Lanes(1), []

    def work(number):
        log.append(number)
        return number

    with closing(lanes.map(work, range(100))) as found:
        assert next(found) == 0
    assert list(lanes.map(work, [100])) == [100]
    assert len(log) <= 4
    assert lanes._running == 0
    assert not lanes._waiting


def test_a_block_that_hangs_does_not_keep_the_process_from_ending():
    code = """
import threading, time
from cluster.worker.lanes import Lanes
inside = threading.Event()
def hang(_):
    inside.set()
    time.sleep(3600)
threading.Thread(target=lambda: list(Lanes(1).map(hang, [1])), daemon=True).start()
assert inside.wait(10)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
