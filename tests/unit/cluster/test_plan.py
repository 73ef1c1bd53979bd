from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import InputFile, RowGroup, ShardLimits, plan_shards

groups = st.lists(st.builds(RowGroup, st.integers(0, 300), st.integers(0, 10_000)), max_size=12)
files = st.lists(groups, max_size=4).map(
    lambda all_groups: [
        InputFile(path=f"/data/{index}.parquet", etag=f"e{index}", groups=tuple(each))
        for index, each in enumerate(all_groups)
    ]
)
limits = st.builds(
    ShardLimits, rows=st.integers(1, 200), size=st.integers(1, 20_000), first=st.none() | st.integers(1, 50)
)


def rows_of(shards):
    return [(one.path, row) for shard in shards for one in shard.ranges for row in range(one.start, one.stop)]


@given(files, limits)
def test_every_row_is_in_exactly_one_shard(files, limits):
    shards = plan_shards(files, limits, reader="r")
    assert rows_of(shards) == [(file.path, row) for file in files for row in range(file.rows)]


@given(files, limits)
def test_no_shard_is_above_the_limits_but_for_one_big_row(files, limits):
    for shard in plan_shards(files, limits, reader="r"):
        assert 1 <= shard.rows <= limits.rows
        # A cut row group is only known by its average row, so a piece may have one of these too much.
        average = shard.size / shard.rows
        assert shard.size <= limits.size + average or shard.rows == 1


@given(files, limits)
def test_row_groups_of_a_range_hold_its_rows_and_begin_where_it_says(files, limits):
    by_path = {file.path: file for file in files}
    for shard in plan_shards(files, limits, reader="r"):
        for one in shard.ranges:
            counts = [group.rows for group in by_path[one.path].groups]
            first, end = one.groups
            assert sum(counts[:first]) == one.group_start <= one.start
            assert one.stop <= sum(counts[:end])


@given(files, limits, st.data())
def test_a_part_of_a_shard_is_those_of_its_rows(files, limits, data):
    for shard in plan_shards(files, limits, reader="r"):
        first = data.draw(st.integers(0, shard.rows))
        end = data.draw(st.integers(first, shard.rows))
        assert rows_of([shard.part(first, end)]) == rows_of([shard])[first:end]


@given(files, limits, st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_listing(files, limits, random):
    shuffled = list(files)
    random.shuffle(shuffled)
    plan = plan_shards(files, limits, reader="r")
    assert plan_shards(shuffled, limits, reader="r") == plan
    assert len({shard.id for shard in plan}) == len(plan)


def test_a_changed_file_gives_other_ids():
    file = InputFile(path="/a", etag="1", groups=(RowGroup(10, 10),))
    limits = ShardLimits(rows=5)
    before = {shard.id for shard in plan_shards([file], limits, reader="r")}
    after = {shard.id for shard in plan_shards([dataclasses.replace(file, etag="2")], limits, reader="r")}
    assert len(before) == 2
    assert before.isdisjoint(after)


def test_small_row_groups_are_joined_and_big_ones_cut_evenly():
    file = InputFile(path="/a", etag="1", groups=(RowGroup(4, 0), RowGroup(4, 0), RowGroup(4, 0), RowGroup(25, 0)))
    shards = plan_shards([file], ShardLimits(rows=10), reader="r")
    assert [(one.start, one.stop, one.groups) for shard in shards for one in shard.ranges] == [
        (0, 8, (0, 2)),
        (8, 12, (2, 3)),
        (12, 21, (3, 4)),
        (21, 29, (3, 4)),
        (29, 37, (3, 4)),
    ]


def test_small_files_share_a_shard_that_names_them():
    files = [InputFile(path=f"/{n}", etag="1", groups=(RowGroup(4, 9),)) for n in range(5)]
    first, second = plan_shards(files, ShardLimits(rows=12), reader="r")
    assert ([one.path for one in first.ranges], first.rows, first.size) == (["/0", "/1", "/2"], 12, 27)
    assert [one.path for one in second.ranges] == ["/3", "/4"]
    assert str(first) == f"{first.id} (/0 rows 0-3 and 2 other file(s))"


def test_default_shards_are_many_enough_to_balance_and_few_enough_to_list():
    assert ShardLimits.default(10).rows == 64
    assert ShardLimits.default(64 * 1000).rows == 1000
    assert ShardLimits.default(10**9).rows == 8192


def test_first_shards_are_small_and_grow_up_to_the_limit():
    file = InputFile(path="/a", etag="1", groups=(RowGroup(1000, 0),))
    shards = plan_shards([file], ShardLimits(rows=100, first=30), reader="r")
    assert [shard.rows for shard in shards] == [30] * 4 + [59] * 4 + [92] * 7


def test_a_hundred_rows_are_work_for_several_workers():
    file = InputFile(path="/a", etag="1", groups=(RowGroup(50, 0), RowGroup(50, 0)))
    assert [shard.rows for shard in plan_shards([file], ShardLimits.default(100), reader="r")] == [25] * 4
