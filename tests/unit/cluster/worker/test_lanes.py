from __future__ import annotations

import threading

import pytest
from batch_runs import wait_until

from cluster.worker import lanes as module
from cluster.worker.lanes import Lanes

PATIENCE = 10  # seconds


def waiting(lanes, name, entered):
    """Start a thread that takes a lane, and say so; it leaves it once it is told to."""
    leave = threading.Event()

    def run():
        with lanes.lane() as lane:
            lane.take()
            entered.append(name)
            leave.wait(PATIENCE)

    count = len(lanes._waiting)
    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(lanes._waiting) > count or name in entered, f"{name} is inside, or waits", PATIENCE)
    return thread, leave


def test_no_more_threads_than_lanes_are_inside_and_who_waited_longest_is_next():
    lanes, entered = Lanes(2), []
    threads = [waiting(lanes, name, entered) for name in "abcd"]
    assert entered == ["a", "b"]
    for number, (_, leave) in enumerate(threads):
        leave.set()
        wait_until(lambda number=number: len(entered) == min(4, number + 3), "the next is inside", PATIENCE)
    assert entered == list("abcd")
    for thread, _ in threads:
        thread.join(PATIENCE)
    assert lanes._free == 2


def test_a_lane_is_kept_from_batch_to_batch_but_not_for_ever(monkeypatch):
    lanes, entered = Lanes(1), []
    with lanes.lane() as lane:
        lane.take()
        thread, leave = waiting(lanes, "other", entered)
        lane.take()
        assert entered == []
        monkeypatch.setattr(module, "SLICE", 0.0)
        leave.set()  # it lets us in again as soon as it had its turn
        lane.take()
        assert entered == ["other"]
    thread.join(PATIENCE)


def test_a_lane_is_others_while_one_waits_for_something_else():
    lanes, entered = Lanes(1), []
    with lanes.lane() as lane:
        with lane.idle():  # not had yet: nothing to leave
            assert lanes._free == 1
        lane.take()
        thread, leave = waiting(lanes, "other", entered)
        leave.set()
        with lane.idle():
            wait_until(lambda: entered == ["other"], "the other is inside", PATIENCE)
        assert lanes._free == 0
    thread.join(PATIENCE)
    assert lanes._free == 1


def test_an_error_leaves_the_lane():
    lanes = Lanes(1)

    def fail():
        with lanes.lane() as lane:
            lane.take()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert lanes._free == 1
