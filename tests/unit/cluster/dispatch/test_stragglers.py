from __future__ import annotations

import pytest

from cluster.dispatch.stragglers import Run, straggler

PACES = [0.1, 0.1, 0.1]  # so that 100 rows take 10 s


def run(task: int, seconds: float, done: int = 0) -> Run:
    return Run(task=task, rows=100, done=done, seconds=seconds)


def test_who_takes_twice_the_usual_time_is_late():
    assert straggler([run(1, 19, 50)], PACES) is None
    assert straggler([run(1, 21, 50)], PACES) == 1


def test_of_the_late_the_one_that_ends_last_is_tried_again():
    assert straggler([run(1, 30, 90), run(2, 25, 10), run(3, 40, 99)], PACES) == 2


def test_no_row_through_is_farthest_from_the_end():
    assert straggler([run(1, 30, 1), run(2, 25, 0)], PACES) == 2


def test_one_slow_shard_among_the_ended_changes_nothing():
    assert straggler([run(1, 21, 50)], [0.1, 0.1, 90.0]) == 1


@pytest.mark.parametrize(("runs", "paces"), [([run(1, 1000)], PACES[:2]), ([], PACES)])
def test_without_a_pace_or_a_run_nobody_is_late(runs, paces):
    assert straggler(runs, paces) is None


def test_short_shards_are_not_late_before_some_seconds():
    assert straggler([run(1, 4.9, 1)], [0.001] * 9) is None
