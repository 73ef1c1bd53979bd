"""Partitions: what a path says, what is in the files, and that the commit protocol holds for many files as for one."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import CommitLostError, OutputError, PartitionError, SchemaError
from cluster.output import partitions
from cluster.output.commit import Attempt, OutputDirectory
from cluster.output.merging import Merger
from cluster.output.partitions import NULL, PartitionColumn, Partitioning, by_partition
from cluster.output.read import read_output
from cluster.output.records import Commit, JobRecord, OutputManifest, WrittenFile
from cluster.plan import InputFile, RowGroup, Shard, ShardLimits, plan_shards
from cluster.storage import directory as directory_module

SITES = ("lab", "field", None)
SCHEMA = pa.schema([pa.field("site", pa.string()), pa.field("row", pa.int64())])
SITE = PartitionColumn.of(SCHEMA, "site")
BY_SITE = Partitioning(column=SITE)
ROWS, SHARD_ROWS = 12, 4


def plan(rows: int = ROWS, shard_rows: int = SHARD_ROWS) -> tuple[Shard, ...]:
    file = InputFile(path="/in", etag="1", groups=(RowGroup(rows, 0),))
    return plan_shards([file], ShardLimits(rows=shard_rows), reader="r")


def record(rows: int = ROWS, shards: int = 3) -> JobRecord:
    return JobRecord(
        models={"m@1": "aa"},
        input="/in",
        files={"/in": ("1", rows)},
        options={"partition by": "site"},
        shards=shards,
        partition_by=SITE,
    )


def rows_of(shard: Shard) -> pa.Table:
    """The rows of *shard*: of the three sites in turn."""
    numbers = range(shard.ranges[0].start, shard.ranges[0].stop)
    return pa.table({"site": [SITES[number % 3] for number in numbers], "row": list(numbers)}, schema=SCHEMA)


def tried(output: OutputDirectory, shard: Shard, table: pa.Table | None = None, filtered: int = 0) -> Commit:
    with output.attempt(shard, SCHEMA, BY_SITE) as attempt:
        attempt.write(rows_of(shard) if table is None else table)
        attempt.publish()
        return attempt.commit(filtered=filtered, seconds={}, ran_on={})


def on_disk(output: OutputDirectory) -> set[str]:
    """Every file below ``data/``, the hidden ones of drafts too."""
    root = Path(output.uri)
    return {path.relative_to(root).as_posix() for path in (root / "data").rglob("*") if path.is_file()}


def named(manifest: OutputManifest) -> set[str]:
    return {file.path for file in manifest.data}


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    output = OutputDirectory.open(tmp_path / "out")
    output.claim(record())
    return output


# ------------------------------------------------------------------------------------ the column


@given(st.text(max_size=60))
def test_a_folder_is_one_part_of_a_path_and_says_the_value(text):
    folder = SITE.folder(text)
    assert not set(folder) & set('/\\:*?"#\0')
    assert unquote(folder) == (f"site={text}" if text else f"site={NULL}")


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        (None, f"site={NULL}"),
        ("", f"site={NULL}"),
        ("a b", "site=a b"),
        ("a/b=c%", "site=a%2Fb%3Dc%25"),
        ("Zürich", "site=Zürich"),
        (7, "site=7"),
        (True, "site=true"),
        ("2024-05-01", "site=2024-05-01"),
    ],
)
def test_folders_are_called_as_hive_calls_them(value, folder):
    assert SITE.folder(value) == folder


def test_a_value_that_no_folder_can_be_called_by_is_refused():
    with pytest.raises(PartitionError, match=r"--partition-by site: the value 'x{40}'\.\.\. .* has 305 bytes"):
        SITE.folder("x" * 300)


KINDS = {
    "string": (pa.string(), st.text(max_size=3)),
    "large_string": (pa.large_string(), st.text(max_size=3)),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "bool": (pa.bool_(), st.booleans()),
    "date32": (pa.date32(), st.dates()),
    "date64": (pa.date64(), st.dates()),
    "dictionary": (pa.dictionary(pa.int16(), pa.string()), st.text(max_size=3)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data(), place=st.integers(0, 2))
def test_split_and_restored_every_row_is_there_once_sorted_by_value(kind, data, place):
    arrow, values = KINDS[kind]
    drawn = data.draw(st.lists(st.none() | values, max_size=30))
    names = ["a", "b"]
    names.insert(place, "by")
    columns = {"a": pa.array(range(len(drawn))), "b": pa.array(map(str, range(len(drawn))), pa.string())}
    table = pa.table({"by": pa.array(drawn, arrow), **columns}).select(names)
    by = PartitionColumn.of(table.schema, "by")
    by = PartitionColumn.model_validate_json(by.model_dump_json())  # as the manifest has it
    parts = []
    for value, part in by.split(table):
        assert part.column_names == ["a", "b"]
        written = WrittenFile(path="x", rows=part.num_rows, size=1, partition={"by": value})
        parts.append(by.restored(part, WrittenFile.model_validate_json(written.to_bytes()).partition))
    assert len(parts) == len(set(drawn))
    if parts:
        found = pa.concat_tables(parts)
        order = sorted(range(len(drawn)), key=lambda n: (drawn[n] is None, drawn[n]))
        assert found.schema == table.schema
        assert found.to_pylist() == [table.to_pylist()[n] for n in order]


@pytest.mark.parametrize(
    "kind",
    [
        pa.float64(),
        pa.binary(),
        pa.timestamp("us"),
        pa.decimal128(9, 2),
        pa.list_(pa.string()),
        pa.struct([("a", pa.string())]),
        pa.dictionary(pa.int8(), pa.float32()),
    ],
    ids=str,
)
def test_a_type_that_makes_no_partitions_is_refused(kind):
    with pytest.raises(SchemaError, match=r"--partition-by: column 'site' is .* text, integers, booleans or dates"):
        PartitionColumn.of(pa.schema([("site", kind)]), "site")


@pytest.mark.parametrize("name", ["_site", ".site", "a=b", "a/b", "100%"])
def test_a_name_that_not_every_tool_reads_from_a_path_is_refused(name):
    with pytest.raises(SchemaError, match="--keep COLUMN=NAME"):
        PartitionColumn.of(pa.schema([(name, pa.string())]), name)


@given(st.lists(st.tuples(st.sampled_from(["b", "a", "", None]), st.integers(0, 3)), max_size=12))
def test_files_are_read_by_value_and_then_in_the_order_of_the_plan(drawn):
    files = [
        WrittenFile(path=str(number), rows=rows, size=1, partition={"site": value})
        for number, (value, rows) in enumerate(drawn)
    ]
    lists = by_partition(files)
    found = [file for one in lists for file in one]
    assert [file for file in found if file.rows] == sorted(
        (file for file in files if file.rows),
        key=lambda file: (file.partition["site"] is None, file.partition["site"] or "", int(file.path)),
    )
    assert len([file for file in found if not file.rows]) == (bool(files) and not any(file.rows for file in files))
    assert all(len({file.partition["site"] for file in one}) == 1 for one in lists)


def test_without_partitions_all_files_are_one_list_in_order():
    files = [WrittenFile(path=str(number), rows=number % 2, size=1) for number in range(4)]
    assert by_partition(files) == [files]


# ------------------------------------------------------------------------------------ commits


def test_an_attempt_writes_a_file_of_each_value_without_the_column(output):
    commit = tried(output, plan()[1])
    assert [file.partition for file in commit.files] == [{"site": "field"}, {"site": "lab"}, {"site": None}]
    assert on_disk(output) == {file.path for file in commit.files}
    assert [file.path.split("/")[1] for file in commit.files] == ["site=field", "site=lab", f"site={NULL}"]
    parts = [pq.ParquetFile(Path(output.uri, file.path)).read() for file in commit.files]
    assert [part.to_pydict() for part in parts] == [{"row": [4, 7]}, {"row": [6]}, {"row": [5]}]
    assert commit.partitions == {"field", "lab", None}


def test_null_the_empty_text_and_what_looks_like_null_are_told_apart(output):
    shards = plan(4, 4)
    tried(output, shards[0], pa.table({"site": ["", None, NULL, ""], "row": [0, 1, 2, 3]}, schema=SCHEMA))
    manifest = output.finish(record(4, 1), shards, Merger(output))
    assert {file.partition["site"]: file.rows for file in manifest.data} == {"": 2, None: 1, NULL: 1}
    assert {Path(path).parent.name for path in on_disk(output)} == {f"site={NULL}"}
    assert read_output(output.uri).to_pylist() == [
        {"site": "", "row": 0},
        {"site": "", "row": 3},
        {"site": NULL, "row": 2},
        {"site": None, "row": 1},
    ]


def test_commits_of_before_are_read_and_written_as_they_were():
    data = {"path": "data/x.parquet", "rows": 3, "size": 9}
    commit = Commit.model_validate({"shard": "0", "attempt": "a", "rows": 3, "data": data})
    assert commit.files == (WrittenFile(**data),)
    assert commit.partitions == frozenset()
    again = Commit.model_validate_json(commit.to_bytes())
    assert again == commit
    assert isinstance(again.data, WrittenFile)


def test_the_rows_of_all_files_must_balance(output):
    commit = tried(output, plan()[0])
    assert Commit.model_validate_json(commit.to_bytes()) == commit
    with pytest.raises(ValueError, match="5 rows in, but 4 out"):
        Commit(**{**commit.model_dump(), "rows": 5})
    with output.attempt(plan()[1], SCHEMA, BY_SITE) as attempt:
        attempt.write(rows_of(plan()[1]).slice(1))
        attempt.publish()
        with pytest.raises(OutputError, match="4 rows in, but 3 out"):
            attempt.commit(filtered=0, seconds={}, ran_on={})
    assert on_disk(output) == {file.path for file in commit.files}


@settings(max_examples=10)
@given(racers=st.integers(2, 6))
def test_of_all_who_race_for_a_shard_one_wins_and_its_files_alone_stay(tmp_path_factory, racers):
    output = OutputDirectory.open(tmp_path_factory.mktemp("race") / "out")
    output.claim(record())
    shard, start = plan()[0], threading.Barrier(racers)

    def race(_: int) -> Commit | None:
        with output.attempt(shard, SCHEMA, BY_SITE) as attempt:
            attempt.write(rows_of(shard))
            attempt.publish()
            start.wait()
            try:
                return attempt.commit(filtered=0, seconds={}, ran_on={})
            except CommitLostError:
                return None

    with ThreadPoolExecutor(racers) as executor:
        (winner,) = filter(None, executor.map(race, range(racers)))
    assert output.commit_of(shard.id) == winner
    assert on_disk(output) == {file.path for file in winner.files}


@pytest.mark.parametrize("point", ["before publishing", "between files", "before committing", "after committing"])
def test_after_a_crash_at_any_point_every_row_is_there_once(output, monkeypatch, point):
    shards = plan()
    tried(output, shards[0])
    monkeypatch.setattr(Attempt, "close", lambda _self: None)  # a killed process closes nothing
    attempt = Attempt(store=output.store, shard=shards[1], schema=SCHEMA, partitioning=BY_SITE)
    attempt.write(rows_of(shards[1]))
    if point == "between files":
        with monkeypatch.context() as patched:
            patched.setattr(partitions, "HELD_ROWS", 1)
            attempt.write(rows_of(shards[1]).slice(0, 0))  # what is held is written; the rest would follow
    elif point != "before publishing":
        attempt.publish()
    if point == "after committing":
        attempt.commit(filtered=0, seconds={}, ran_on={})
    garbage = on_disk(output)
    again = OutputDirectory.open(output.uri)
    again.claim(record())
    for shard in shards:
        if again.commit_of(shard.id) is None:
            tried(again, shard)
    assert garbage <= on_disk(output)  # recovery deletes nothing
    manifest = again.finish(record(), shards, Merger(again))
    assert read_output(output.uri).column("row").to_pylist() == [1, 4, 7, 10, 0, 3, 6, 9, 2, 5, 8, 11]
    assert on_disk(output) == named(manifest)  # what the dead attempt left is gone from every folder
    attempt._good.discard()  # what the dead process held


def test_a_full_disk_leaves_no_file_behind(output, monkeypatch):
    fsync, left = os.fsync, [3]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tried(output, plan()[0])
    assert on_disk(output) == set()
    assert output.commits() == {}


def test_a_new_folder_reaches_the_disk_before_the_commit(output, monkeypatch):
    synced: list[str] = []
    original = directory_module.fsync_directory
    monkeypatch.setattr(directory_module, "fsync_directory", lambda path: (synced.append(path.name), original(path)))
    tried(output, plan()[0])
    assert Counter(synced) == {"data": 3, "site=lab": 1, "site=field": 1, f"site={NULL}": 1}


@pytest.mark.parametrize("held", [1, 2, 3])
def test_what_an_attempt_holds_is_bounded_and_its_rows_keep_their_order(output, monkeypatch, held):
    monkeypatch.setattr(partitions, "HELD_ROWS", held)
    shards = plan(ROWS, ROWS)
    with output.attempt(shards[0], SCHEMA, BY_SITE) as attempt:
        for row in range(ROWS):
            attempt.write(rows_of(shards[0]).slice(row, 1))
        attempt.publish()
        commit = attempt.commit(filtered=0, seconds={}, ran_on={})
    assert len(commit.files) >= ROWS // held
    manifest = OutputManifest.of(record(ROWS, 1), [commit])
    found = {site: [] for site in SITES}
    for file in manifest.data:
        found[file.partition["site"]] += pq.ParquetFile(Path(output.uri, file.path)).read()["row"].to_pylist()
    assert found == {site: list(range(index, ROWS, 3)) for index, site in enumerate(SITES)}


def test_too_many_values_end_the_attempt_and_nothing_of_it_stays(output):
    few = Partitioning(column=SITE, most=2)
    with (
        pytest.raises(PartitionError, match=r"--partition-by site: .* 3 different values or more; --max-partitions"),
        output.attempt(plan()[0], SCHEMA, few) as attempt,
    ):
        attempt.write(rows_of(plan()[0]))
    assert on_disk(output) == set()


# ------------------------------------------------------------------------------------ without rows


def test_a_shard_without_good_rows_commits_and_leaves_no_file(output):
    shards = plan()
    tried(output, shards[0])
    tried(output, shards[1], SCHEMA.empty_table(), filtered=4)
    tried(output, shards[2])
    manifest = output.finish(record(), shards, Merger(output))
    assert manifest.rows == {"in": 12, "out": 8, "quarantined": 0, "filtered": 4}
    assert on_disk(output) == named(manifest)
    assert read_output(output.uri).column("row").to_pylist() == [1, 10, 0, 3, 9, 2, 8, 11]


def test_an_output_without_any_row_can_be_read(output):
    shards = plan()
    for shard in shards:
        tried(output, shard, SCHEMA.empty_table(), filtered=4)
    manifest = output.finish(record(), shards, Merger(output))
    assert len(manifest.data) == 1
    assert on_disk(output) == named(manifest)
    assert read_output(output.uri) == SCHEMA.empty_table()


# ------------------------------------------------------------------------------------ joining


def test_files_of_a_partition_are_joined_with_each_other_and_drivers_agree(output):
    shards = plan()
    for shard in reversed(shards):
        tried(output, shard)
    gate = threading.Barrier(4)

    def finish(_: int) -> OutputManifest:
        gate.wait()
        return output.finish(record(), shards, Merger(output))

    with ThreadPoolExecutor(4) as executor:
        manifests = list(executor.map(finish, range(4)))
    assert len({manifest.to_bytes() for manifest in manifests}) == 1
    assert [(file.partition["site"], file.rows) for file in manifests[0].data] == [("field", 4), ("lab", 4), (None, 4)]
    assert on_disk(output) == named(manifests[0])
    assert read_output(output.uri).to_pylist() == [
        {"site": site, "row": row}
        for site, first in (("field", 1), ("lab", 0), (None, 2))
        for row in range(first, 12, 3)
    ]


@settings(max_examples=15)
@given(size=st.integers(0, 3000), order=st.permutations(range(3)))
def test_any_size_wanted_gives_the_same_rows_in_the_same_order(tmp_path_factory, size, order):
    output = OutputDirectory.open(tmp_path_factory.mktemp("size") / "out")
    output.claim(record())
    for index in order:
        tried(output, plan()[index])
    manifest = output.finish(record(), plan(), Merger(output, size))
    assert read_output(output.uri).column("row").to_pylist() == [1, 4, 7, 10, 0, 3, 6, 9, 2, 5, 8, 11]
    assert on_disk(output) == named(manifest)
    assert {Path(file.path).parent.name for file in manifest.data} == {"site=lab", "site=field", f"site={NULL}"}
