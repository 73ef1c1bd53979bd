"""What commits tell of a job."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.output.records import Commit, OutputManifest, WrittenFile
from cluster.report.history import Done, slowest, stages_of, stations_of, timeline_of


def done(*commits: tuple[float | None, float | None, int], **fields) -> list[Done]:
    """Make shards with commits that began, ended and had so many rows."""
    return [
        (
            SimpleNamespace(id=f"{number:05d}"),
            Commit(
                shard=f"{number:05d}",
                attempt="a",
                rows=rows,
                data=WrittenFile(path="x", rows=rows, size=1),
                started=begun,
                finished=ended,
                **fields,
            ),
        )
        for number, (begun, ended, rows) in enumerate(commits)
    ]


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1e4), st.integers(0, 10_000)), min_size=1, max_size=40))
def test_no_row_of_a_timeline_is_lost_or_doubled(shards: Sequence[tuple[float, float, int]]):
    line = timeline_of(done(*((begun, begun + spent, rows) for begun, spent, rows in shards)))
    assert line is not None
    total = sum(rows for _, _, rows in shards)
    assert line.rows == total
    assert sum(rate * line.width for rate in line.rates) == pytest.approx(total, rel=1e-6, abs=1e-6)
    assert line.mean * line.seconds == pytest.approx(total)


def test_a_pause_between_runs_is_seen():
    line = timeline_of(done((100.0, 110.0, 50), (190.0, 200.0, 50)))
    assert line is not None
    assert line.seconds == pytest.approx(100)
    assert max(line.rates) == pytest.approx(5.0)
    assert 0.0 in line.rates


def test_commits_of_a_time_before_have_no_timeline():
    assert timeline_of(done((None, None, 5))) is None
    assert slowest(done((None, None, 5))) == []


def test_the_slowest_come_first_with_the_stage_that_took_most():
    found = slowest(done((1.0, 2.0, 5), (1.0, 9.0, 5), seconds={"read": 1.0, "infer": 3.0}), most=1)
    assert [(one.seconds, one.stage) for one in found] == [(8.0, "infer")]


def test_work_is_added_up_by_machine_and_by_stage():
    one = done((1.0, 2.0, 5), (2.0, 4.0, 5), ran_on={"host": "a", "provider": "CPU", "pid": "1"}, seconds={"read": 1})
    other = done((1.0, 2.0, 90), ran_on={"host": "b", "provider": "CUDA", "pid": "7"}, seconds={"read": 2})
    found = stations_of([*one, *other])
    assert [(s.host, s.provider, s.workers, s.shards, s.rows, s.seconds) for s in found] == [
        ("b", "CUDA", 1, 1, 90, 1.0),
        ("a", "CPU", 1, 2, 10, 3.0),
    ]
    assert stages_of([*one, *other]) == {"read": 4.0}


def test_the_clock_is_in_commits_and_not_in_the_manifest():
    assert "started" in Commit.model_fields
    assert not {"started", "finished"} & set(OutputManifest.model_fields)
