"""Storage against a real S3 server, and against one that fails: what holds on a disk holds there."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import BUCKET, FAULTS, Proxy, first, seeded

from cluster.errors import CommitLostError, InputChangedError, OtherJobError, OutputError, StorageError
from cluster.output.commit import OutputDirectory
from cluster.output.records import JobRecord
from cluster.plan import InputFile, RowGroup, Shard, ShardLimits, plan_shards
from cluster.storage import Store, open_store
from cluster.storage.inputs import column_ranges
from runtime.objects import Patience

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

HASTY = Patience(retries=4, first_wait=0.01, longest_wait=0.05, total=20, answer=0.5)
SCHEMA = pa.schema([("row", pa.int64())])


@pytest.fixture
def place(proxy: Proxy) -> str:
    """A URL that no other test uses."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place, HASTY)


@pytest.fixture(params=["directory", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "place") if request.param == "directory" else request.getfixturevalue("store")


# ------------------------------------------------------------------------------- one contract, two places


def test_what_is_created_is_there_once_and_never_replaced(any_store):
    any_store.create("a/b.json", b"first")
    with pytest.raises(FileExistsError):
        any_store.create("a/b.json", b"second")
    assert any_store.read("a/b.json") == b"first"
    assert any_store.read("a/none.json") is None


def test_of_all_who_race_for_a_key_one_wins(any_store):
    start = threading.Barrier(8)

    def race(number: int) -> int | None:
        start.wait()
        try:
            any_store.create("raced", str(number).encode())
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as executor:
        (winner,) = [number for number in executor.map(race, range(8)) if number is not None]
    assert any_store.read("raced") == str(winner).encode()


def test_a_draft_is_invisible_until_it_is_published_and_gone_when_discarded(any_store):
    draft = any_store.draft("data/x.bin")
    draft.file.write(b"12345")
    assert any_store.read("data/x.bin") is None
    assert any_store.entries("data/") == {}
    assert draft.publish() == 5
    assert any_store.read("data/x.bin") == b"12345"
    draft.discard()
    assert any_store.read("data/x.bin") is None


def test_listings_name_all_below_a_folder_and_nothing_hidden(any_store):
    assert any_store.names() == set()
    for key in ("data/a", "data/deep/b", "data/.hidden", "top"):
        any_store.put(key, key.encode())
    assert {key: entry.size for key, entry in any_store.entries("data/").items()} == {"data/a": 6, "data/deep/b": 11}
    assert set(any_store.entries("")) == {"data/a", "data/deep/b", "top"}
    assert any_store.names() == {"data", "top"}
    assert list(any_store.read_all(["top", "none", "data/a"])) == [b"top", None, b"data/a"]


def test_a_file_is_put_in_parts_and_read_in_ranges(any_store):
    data = os.urandom(20_000_000)  # three parts
    draft = any_store.draft("big.bin")
    draft.file.write(data)
    draft.publish()
    with closing(any_store.reader("big.bin")) as reader:
        assert reader.entry.size == len(data)
        assert reader.entry == any_store.entries("")["big.bin"]
        if reader.source != str(Path(any_store.uri) / "big.bin"):  # a disk's Arrow reads itself
            with reader.source as file:
                for start, size in ((5, 10), (9_999_990, 10_000_000), (19_999_000, 5000), (0, 1)):
                    file.seek(start)
                    assert file.read(size) == data[start : start + size]


def test_what_is_not_there_cannot_be_opened(any_store):
    with pytest.raises(FileNotFoundError):
        any_store.reader("none")


# ------------------------------------------------------------------------------------------- faults

Operation = Callable[[Store], object]


def _put_big(store: Store) -> object:
    draft = store.draft("big")
    try:
        draft.file.write(b"x" * 9_000_000)  # two parts
        draft.publish()
        return store.entries("")["big"].size
    finally:
        draft.file.close()


def _read_range(store: Store) -> object:
    with closing(store.reader("small")) as reader, reader.source as file:
        return file.read()


OPERATIONS: dict[str, tuple[Operation, object]] = {
    "read": (lambda store: store.read("small"), b"small"),
    "read_all": (lambda store: list(store.read_all(["small", "none"])), [b"small", None]),
    "entries": (lambda store: sorted(store.entries("")), ["small"]),
    "names": (lambda store: store.names(), {"small"}),
    "put": (lambda store: store.put("other", b"1"), None),
    "put in parts": (_put_big, 9_000_000),
    "range": (_read_range, b"small"),
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (name, fault)
        for name in OPERATIONS
        for fault in FAULTS
        if fault != "cut" or name in {"read", "entries", "range"}
    ],
)
def test_a_request_that_fails_twice_is_repeated(store, proxy, name, fault):
    operation, expected = OPERATIONS[name]
    store.put("small", b"small")
    proxy.plan = first(2, fault)
    assert operation(store) == expected
    assert proxy.faults == 2


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in {"lost", "cut"}])
def test_a_create_that_was_not_done_is_repeated(store, proxy, fault):
    proxy.plan = first(2, fault)
    store.create("new", b"1")
    assert store.read("new") == b"1"


@pytest.mark.parametrize("fault", ["503", "409", "drop", "hang"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_when_all_fails_the_error_names_the_object_and_the_answer(proxy, place, name, fault):
    operation, _ = OPERATIONS[name]
    store = open_store(place, Patience(retries=0, first_wait=0.01, longest_wait=0.01, total=1, answer=0.2))
    proxy.plan = first(10_000, fault)
    with pytest.raises(StorageError) as error:
        operation(store)
    assert place in str(error.value)
    assert not fault.isdecimal() or fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_that_is_not_there_is_said(proxy):
    with pytest.raises(StorageError, match=r"s3://nowhere/x/a cannot be written: .*404"):
        open_store("s3://nowhere/x", HASTY).create("a", b"")


# ------------------------------------------------------------------------------------- the protocol


def plan(rows: int = 10, shard_rows: int = 5) -> tuple[Shard, ...]:
    file = InputFile(path="/in", etag="1", groups=(RowGroup(rows, 0),))
    return plan_shards([file], ShardLimits(rows=shard_rows), reader="r")


def record(rows: int = 10, shards: int = 2, model: str = "aa") -> JobRecord:
    files = {"/in": ("1", rows)}
    return JobRecord(models={"m@1": model}, input="/in", files=files, options={}, shards=shards)


def attempt_at(output: OutputDirectory, shard: Shard) -> str | None:
    """Return the id of an attempt at *shard* if it committed, otherwise ``None``."""
    with output.attempt(shard, SCHEMA) as attempt:
        attempt.write(pa.table({"row": [int(shard.id[:5])] * shard.rows}))
        attempt.publish()
        try:
            return attempt.commit(filtered=0, seconds={}, ran_on={}).attempt
        except CommitLostError:
            return None


def rows_of(output: OutputDirectory) -> list[int]:
    rows = []
    for file in output.finished().data:
        with closing(output.store.reader(file.path)) as reader, pq.ParquetFile(reader.source) as parquet:
            rows += parquet.read()["row"].to_pylist()
    return rows


def test_a_commit_whose_answer_was_lost_is_ours(store, proxy):
    output = OutputDirectory(store)
    output.claim(record())
    proxy.plan = first(1, "lost", of=lambda method, path: method == "PUT" and "_commits" in path)
    winner = attempt_at(output, plan()[0])
    assert proxy.faults == 1
    assert winner == output.commit_of(plan()[0].id).attempt
    assert attempt_at(output, plan()[0]) is None
    assert list(output.store.entries("data/")) == [output.commit_of(plan()[0].id).data.path]


def test_a_claim_whose_answer_was_lost_is_ours_and_nobody_elses(store, proxy):
    proxy.plan = first(1, "lost", of=lambda method, _path: method == "PUT")
    OutputDirectory(store).claim(record())
    assert proxy.faults == 1
    with pytest.raises(OtherJobError):
        OutputDirectory(store).claim(record(model="bb"))


@pytest.mark.parametrize("seed", range(3))
def test_writers_that_race_through_faults_commit_each_shard_once(store, proxy, seed):
    shards = plan(40, 5)
    output = OutputDirectory(store)
    proxy.plan = seeded(seed, 0.1)
    output.claim(record(40, 8))

    def write(_: int) -> list[str]:
        return [winner for shard in shards if (winner := attempt_at(output, shard))]

    with ThreadPoolExecutor(3) as executor:
        won = [winner for one in executor.map(write, range(3)) for winner in one]
    assert len(won) == len(shards)
    assert sorted(won) == sorted(commit.attempt for commit in output.commits().values())
    output.finish(record(40, 8), shards)
    proxy.plan = lambda _method, _path: None
    assert rows_of(output) == [number for number in range(8) for _ in range(5)]


def test_commits_are_one_listing_and_gets_at_a_time(store, proxy):
    output = OutputDirectory(store)
    shards = plan(60, 1)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda shard: attempt_at(output, shard), shards))
    proxy.seen.clear()
    assert output.commits().keys() == output.committed() == {shard.id for shard in shards}
    assert proxy.count("GET", "list-type=2") == 2
    assert proxy.count("GET") == 2 + len(shards)
    assert proxy.most_at_a_time > 8


def test_a_bucket_that_holds_something_else_is_refused(store):
    store.put("theirs/file", b"")
    with pytest.raises(OutputError, match="it holds theirs"):
        OutputDirectory(store).claim(record())


# ----------------------------------------------------------------------------------------- reading


def write_wide(store: Store, key: str, rows: int = 64) -> pa.Table:
    """Put a file of one row group with images of 100 kB, a column beside them that is not wanted, and numbers."""
    table = pa.table(
        {
            "unwanted": pa.array([os.urandom(100_000) for _ in range(rows)], pa.binary()),
            "image": pa.array([os.urandom(100_000) for _ in range(rows)], pa.binary()),
            "number": range(rows),
        }
    )
    draft = store.draft(key)
    pq.write_table(table, draft.file, use_dictionary=False, compression="none")
    draft.publish()
    return table


def test_a_row_group_costs_few_requests_and_no_bytes_of_other_columns(store, proxy):
    table = write_wide(store, "in.parquet")
    proxy.seen.clear()
    with (
        closing(store.reader("in.parquet")) as reader,
        pq.ParquetFile(reader.source, pre_buffer=False, buffer_size=1 << 20) as file,
    ):
        reader.expect(column_ranges(file.metadata, range(1), ["image", "number"]))
        batches = list(file.iter_batches(batch_size=8, columns=["image", "number"]))
    assert pa.Table.from_batches(batches) == table.select(["image", "number"])
    assert proxy.count("HEAD") == 1
    assert proxy.count("GET") <= 4  # the footer, and 6.4 MB in pieces of 4


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(store):
    write_wide(store, "in.parquet")
    with closing(store.reader("in.parquet")) as reader, pq.ParquetFile(reader.source, pre_buffer=False) as file:
        write_wide(store, "in.parquet")
        with pytest.raises(InputChangedError, match=r"in\.parquet changed after the job was planned"):
            file.read()
