from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import WorkersError
from cluster.workers import divide, parse_workers


@pytest.mark.parametrize(("text", "expected"), [("auto", None), ("3", 3), ("cpu=2", 2)])
def test_specifications(text, expected):
    assert parse_workers(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "cpu=", "gpu=1", "two", "1.5", "99999999"])
def test_other_specifications_are_refused(text):
    with pytest.raises(WorkersError, match="auto, N or cpu=N"):
        parse_workers(text)


@given(st.integers(1, 256), st.none() | st.integers(1, 512))
def test_the_workers_never_reserve_more_than_there_is(cores, workers):
    division = divide(cores, workers)
    assert division.workers == (workers or cores)
    assert division.workers * division.cpus <= cores + 1e-6
    assert division.cpus > 0
    if division.cpus > 1:
        assert division.threads.session + division.threads.decode == division.cpus


def test_a_worker_with_many_cores_gives_a_quarter_to_decoding():
    assert (divide(16, 2).threads.session, divide(16, 2).threads.decode) == (6, 2)
    assert (divide(2, 2).threads.session, divide(2, 2).threads.decode) == (1, 1)
