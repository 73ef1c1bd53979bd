from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.tuning import BUDGET, DEFAULT_SIZE, SIZES, TRIALS, Tuner, best_size, divided

seconds = st.floats(1e-6, 10)


def test_the_smallest_size_that_is_as_good_as_the_best_is_taken():
    assert best_size({8: [2.0, 1.0], 16: [0.96, 3.0], 64: [0.7, 0.70], 32: [0.72, 0.9]}) == 32
    assert best_size({8: [1.0, 1.0], 64: [0.99, 0.99]}) == 8


def test_a_single_trial_says_nothing():
    assert best_size({8: [1.0], 16: [2.0, 2.0]}) == 16
    assert best_size({8: [1.0], 16: []}) == DEFAULT_SIZE


@given(st.dictionaries(st.sampled_from(SIZES), st.lists(seconds, min_size=2, max_size=4), min_size=1))
def test_no_size_is_much_faster_than_the_chosen(trials):
    chosen = min(trials[best_size(trials)])
    assert all(chosen <= min(each) * 1.05 + 1e-9 for each in trials.values())


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


def test_sizes_take_turns_until_each_was_measured():
    tuner = Tuner(SIZES)
    settled = []
    for _ in range(TRIALS * len(SIZES)):
        size = tuner.next_size()
        settled.append(tuner.inferred(size, 0.001 * size if size == 32 else 0.002 * size))
    assert settled == [False] * (len(settled) - 1) + [True]
    assert (tuner.size, tuner.next_size(), tuner.settled) == (32, 32, True)
    assert not tuner.inferred(32, 1.0)


def test_a_slow_model_is_not_tried_for_long():
    tuner = Tuner(SIZES)
    assert tuner.inferred(tuner.next_size(), BUDGET)
    assert tuner.size == DEFAULT_SIZE


def test_short_batches_are_no_trials():
    tuner = Tuner(SIZES)
    for _ in range(100):
        assert not tuner.inferred(5, 0.0001)
    assert tuner.size == DEFAULT_SIZE


def test_a_size_that_was_given_is_not_tuned():
    tuner = Tuner((), 7)
    assert (tuner.settled, tuner.size, tuner.next_size()) == (True, 7, 7)
    assert not tuner.inferred(7, 1.0)
