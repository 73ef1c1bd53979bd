from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.pipeline import StageClock, map_ahead, prefetch


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_prefetch_keeps_all_items_in_order(items, depth):
    assert list(prefetch(iter(items), depth, "t")) == items


def test_prefetch_fetches_no_more_than_its_depth_ahead():
    fetched = []

    def source():
        for item in range(100):
            fetched.append(item)
            yield item

    with closing(prefetch(source(), 3, "t")) as items:
        assert next(items) == 0
        time.sleep(0.1)
        assert len(fetched) <= 1 + 3 + 1  # taken, buffered, and the one that waits for room


def test_an_error_arrives_after_the_items_before_it():
    def source():
        yield 1
        raise KeyError("broken")

    items = prefetch(source(), 2, "t")
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)


def test_closing_a_chain_closes_its_source_and_leaves_no_thread():
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    before = threading.active_count()
    with ThreadPoolExecutor(2) as executor:
        chain = prefetch(map_ahead(lambda x: x + 1, prefetch(source(), 2, "a"), executor, 3), 2, "b")
        assert next(chain) == 2
        chain.close()
        assert closed.is_set()
    assert threading.active_count() == before


def test_map_ahead_overlaps_and_keeps_order():
    together = threading.Barrier(3, timeout=5)  # breaks unless three run at a time

    def slow(item):
        together.wait()
        return item * 10

    with ThreadPoolExecutor(3) as executor:
        assert list(map_ahead(slow, range(6), executor, 3)) == [0, 10, 20, 30, 40, 50]


def test_map_ahead_raises_what_the_function_raised():
    with ThreadPoolExecutor(1) as executor, pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda x: 1 // x, [1, 0], executor, 1))


def test_map_ahead_ends_when_nothing_is_computed_any_more_and_begins_nothing_new():
    begun, gate, done = threading.Event(), threading.Event(), []

    def work(item):
        if item == 1:
            begun.set()
            assert gate.wait(5)
        done.append(item)
        return item

    with ThreadPoolExecutor(1) as executor:
        items = map_ahead(work, range(9), executor, 2)
        assert next(items) == 0
        assert begun.wait(5)
        threading.Timer(0.1, gate.set).start()
        items.close()
        assert done == [0, 1]
    assert done == [0, 1]


def test_the_clock_counts_only_the_time_inside():
    clock = StageClock("read", "write")
    for _ in clock.timed("read", (time.sleep(0.02) for _ in range(2))):
        time.sleep(0.05)
    assert 0.04 <= clock.seconds["read"] < 0.09
    assert clock.seconds["write"] == 0
