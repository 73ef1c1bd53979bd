from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.estimate import Probe, estimate, probe_parts
from cluster.plan import InputFile, RowGroup, ShardLimits, plan_shards


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(1, 400))
def test_a_probe_takes_what_was_asked_for_or_all_from_shards_each_once(rows, shard_rows, wanted):
    files = [InputFile(path="/in", etag="1", groups=(RowGroup(rows, 0),))]
    shards = plan_shards(files, ShardLimits(rows=shard_rows), reader="r")
    parts = probe_parts(shards, wanted)
    assert len({shard.id for shard, _ in parts}) == len(parts) >= 1
    assert all(0 == start < stop <= shard.rows for shard, (start, stop) in parts)
    assert sum(stop for _, (_, stop) in parts) <= wanted
    if len(shards) <= 8:
        assert sum(stop for _, (_, stop) in parts) >= min(wanted, min(shard.rows for shard in shards) * len(shards))


def test_the_places_of_a_probe_are_spread():
    files = [InputFile(path="/in", etag="1", groups=(RowGroup(160, 0),))]
    shards = plan_shards(files, ShardLimits(rows=10), reader="r")
    parts = probe_parts(shards, 16)
    assert [(shard.ranges[0].start, part) for shard, part in parts] == [(20 * n, (0, 2)) for n in range(8)]


def test_workers_share_the_time_but_not_the_start_and_all_are_paid():
    probe = Probe(rows=200, seconds=10, start_seconds=4, workers=2, ran_on={}, providers={})
    found = estimate(probe, rows=7200, workers=8, cost_per_hour=1.5)
    assert found.rows_per_second == 80
    assert found.seconds == 94
    assert found.worker_hours == round(94 * 8 / 3600, 6)
    assert found.cost == round(94 * 8 / 3600 * 1.5, 4)
    assert estimate(probe, rows=7200, workers=8, cost_per_hour=None).cost is None
