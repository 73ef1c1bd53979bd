from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.tuning import BUDGET, GAIN, GAIN_OF_MORE, LADDER, Tuner, divided

seconds = st.floats(1e-6, 10)


@pytest.mark.parametrize(
    ("decode_seconds", "infer_seconds", "expected"),
    [
        (0.002, 0.001, (12, 4)),  # both keep up: nothing to gain
        (0.016, 0.001, (7, 9)),  # slow decoding
        (0.0001, 0.01, (15, 1)),  # slow inference
    ],
)
def test_threads_go_where_they_lack(decode_seconds, infer_seconds, expected):
    assert divided(12, 4, decode_seconds=decode_seconds, infer_seconds=infer_seconds) == expected


@given(st.integers(1, 32), st.integers(1, 32), seconds, seconds)
def test_a_division_keeps_all_threads_and_is_final(session, decode, decode_seconds, infer_seconds):
    new = divided(session, decode, decode_seconds=decode_seconds, infer_seconds=infer_seconds)
    assert sum(new) == session + decode
    assert min(new) >= 1
    scaled = infer_seconds * session / new[0]
    assert divided(*new, decode_seconds=decode_seconds, infer_seconds=scaled) == new


def climbed(tuner: Tuner, seconds: Callable[[int], float]) -> list[int]:
    """Feed *tuner* batches until it has settled; return the sizes that it handed out."""
    handed = []
    while not tuner.settled:
        handed.append(tuner.next_size())
        tuner.inferred(handed[-1], seconds(handed[-1]))
    return handed


def test_it_climbs_as_long_as_that_gains():
    tuner = Tuner(LADDER, 4)
    handed = climbed(tuner, lambda size: 0.001 * size / min(size, 32))
    assert tuner.size == tuner.next_size() == 32
    assert set(handed) == {2, 4, 8, 16, 32, 64}
    assert not tuner.inferred(32, 1.0)


def test_it_descends_where_smaller_batches_are_faster():
    tuner = Tuner(LADDER, 8)
    assert set(climbed(tuner, lambda size: 0.001 * size * max(size, 2))) == {8, 4, 2, 1}
    assert tuner.size == 2


def test_where_sizes_are_alike_none_is_tried_that_needs_more_memory():
    tuner = Tuner(LADDER, 4)
    assert set(climbed(tuner, lambda size: 0.001 * size * (0.92 if size == 4 else 1))) == {2, 4}
    assert tuner.size == 4


@pytest.mark.parametrize(("seconds", "size"), [(0.001, 2), (0.0019, 1)])
def test_from_the_smallest_it_climbs_only_for_much(seconds, size):
    tuner = Tuner((1, 2), 1)
    assert set(climbed(tuner, {1: 0.001, 2: seconds}.__getitem__)) == {1, 2}
    assert tuner.size == size


@given(st.integers(0, 8), st.lists(seconds, min_size=9, max_size=9))
def test_no_neighbour_is_much_faster_than_the_chosen(first, each):
    tuner, cost = Tuner(LADDER, LADDER[first]), dict(zip(LADDER, each, strict=True))
    handed = climbed(tuner, lambda size: cost[size] / 1e4)
    chosen = cost[tuner.size] / tuner.size
    place = LADDER.index(tuner.size)
    for size in {LADDER[max(place - 1, 0)], LADDER[min(place + 1, len(LADDER) - 1)]} & set(handed):
        gain = GAIN if size < tuner.size else GAIN_OF_MORE
        assert chosen <= cost[size] / size / (1 - gain) + 1e-9


def test_a_trial_is_the_fastest_of_several():
    tuner = Tuner((4, 8), 8)
    slow = iter([True])  # the first batch of a size warms up
    climbed(tuner, lambda size: 0.001 * size * (10 if size == 4 and next(slow, False) else 1 if size == 8 else 0.5))
    assert tuner.size == 4


def test_a_slow_model_is_not_tried_for_long():
    tuner = Tuner(LADDER, 4)
    assert tuner.inferred(tuner.next_size(), BUDGET)
    assert tuner.size == 4


def test_short_batches_are_no_trials():
    tuner = Tuner(LADDER, 4)
    for _ in range(100):
        assert not tuner.inferred(5, 0.0001)
    assert tuner.size == 4


def test_a_size_that_was_given_is_not_tuned():
    tuner = Tuner((7,), 7)
    assert (tuner.settled, tuner.size, tuner.next_size()) == (True, 7, 7)
    assert not tuner.inferred(7, 1.0)
