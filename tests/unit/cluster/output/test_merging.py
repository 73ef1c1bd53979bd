"""Small files of shards become files of a sensible size, the same whoever joins them."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from color_model import write_rows
from hypothesis import given
from hypothesis import strategies as st

from cluster import read_output, run_batch
from cluster.errors import OtherJobError, OutputError
from cluster.output.commit import OutputDirectory
from cluster.output.merging import Merger, grouped
from cluster.output.records import WrittenFile


def written(*files: tuple[int, int]) -> list[WrittenFile]:
    return [WrittenFile(path=f"data/{n}", rows=rows, size=size) for n, (rows, size) in enumerate(files)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=30), st.integers(0, 100))
def test_groups_hold_every_file_once_in_order_and_are_no_larger_than_wanted(files, size):
    all_files = written(*files)
    groups = list(grouped(all_files, size))
    assert [file for group in groups for file in group] == all_files
    for group in groups:
        full = [file for file in group if file.rows]
        assert len(full) <= 1 or sum(file.size for file in group if file.rows) <= size
    for before, after in pairwise(groups):
        assert sum(file.size for file in before) + after[0].size > size  # none could have been joined


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.parquet", 100, row_group=40, bad={7: b"", 61: b"no image"})


def manifest(out: Path) -> dict:
    return json.loads((out / "_manifest.json").read_bytes())


def test_a_job_leaves_one_file_of_all_its_small_shards(options, rows, tmp_path):
    run_batch(options(keep=("number",)))
    found = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert [entry["path"] for entry in manifest(tmp_path / "out")["data"]] == [f"data/{name}" for name in found]
    assert len(found) == 1
    assert found[0].startswith("part-00000-")
    whole = pq.ParquetFile(tmp_path / "out" / "data" / found[0])
    assert whole.schema_arrow.metadata[b"vedette.model"] == b"color"
    assert whole.read().column("number").to_pylist() == [n for n in range(100) if n not in {7, 61}]


def test_what_is_joined_is_what_the_shards_wrote(options, rows, tmp_path):
    run_batch(options(output=str(tmp_path / "apart"), keep=("number", "image=picture"), file_bytes=0))
    run_batch(options(keep=("number", "image=picture")))
    assert len(manifest(tmp_path / "apart")["data"]) == 5
    assert read_output(tmp_path / "out").equals(read_output(tmp_path / "apart"))


def test_another_size_is_another_job(options, rows):
    run_batch(options())
    with pytest.raises(OtherJobError, match="file bytes"):
        run_batch(options(file_bytes=5))


@pytest.mark.parametrize("died_at", ["_merged/", "_manifest.json", "_SUCCESS", "remove"])
def test_a_driver_that_dies_while_it_joins_loses_and_doubles_nothing(options, rows, tmp_path, monkeypatch, died_at):
    class Died(BaseException):
        pass

    store = type(OutputDirectory.open(tmp_path / "out").store)
    create, remove = store.create, store.remove

    def dying_create(self, key, data):
        if key.startswith(died_at):
            raise Died
        create(self, key, data)

    def dying_remove(self, key):
        if died_at == "remove":
            raise Died
        remove(self, key)

    monkeypatch.setattr(store, "create", dying_create)
    monkeypatch.setattr(store, "remove", dying_remove)
    with pytest.raises(Died):
        run_batch(options())
    monkeypatch.undo()
    summary = run_batch(options())
    assert summary.processed_rows == 0  # no shard is run again
    assert read_output(tmp_path / "out").column("source_row").to_pylist() == [n for n in range(100) if n not in {7, 61}]
    on_disk = {f"data/{path.name}" for path in (tmp_path / "out" / "data").glob("*.parquet")}
    assert on_disk == {entry["path"] for entry in manifest(tmp_path / "out")["data"]}


def test_drivers_that_join_at_a_time_agree(options, rows, tmp_path):
    run_batch(options(file_bytes=0))
    output = OutputDirectory.open(tmp_path / "out")
    commits = [commit for _, commit in sorted(output.commits().items())]
    results: list[list[WrittenFile]] = []
    gate = threading.Barrier(4)

    def join() -> None:
        gate.wait()
        results.append(Merger(output)(commits))

    drivers = [threading.Thread(target=join) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results)
    parts = [path for path in (tmp_path / "out" / "data").iterdir() if path.name.startswith("part-")]
    assert [f"data/{path.name}" for path in parts] == [results[0][0].path]


def test_a_shards_file_that_was_changed_is_not_joined(options, rows, tmp_path):
    run_batch(options(file_bytes=0))
    output = OutputDirectory.open(tmp_path / "out")
    commits = [commit for _, commit in sorted(output.commits().items())]
    path = tmp_path / "out" / commits[1].data.path
    path.write_bytes(path.read_bytes()[:-4] + b"none")
    with pytest.raises(OutputError, match="cannot be read"):
        Merger(output)(commits)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(OutputError, match=r"has 12 bytes; its commit says \d+ bytes"):
        Merger(output)(commits)
    path.unlink()
    with pytest.raises(OutputError, match="is gone"):
        Merger(output)(commits)


def test_the_types_survive(options, rows, tmp_path):
    run_batch(options(keep=("number", "name")))
    schema = read_output(tmp_path / "out").schema
    assert (schema.field("number").type, schema.field("source_row").nullable) == (pa.int32(), False)


def test_other_tools_read_what_is_there(options, rows, tmp_path):
    import datasets
    import duckdb
    import pandas as pd

    run_batch(options(keep=("number",)))
    pattern = f"{tmp_path / 'out'}/data/*.parquet"
    expected = read_output(tmp_path / "out").select(["number", "label"]).to_pylist()
    by_duckdb = duckdb.sql(f"select number, label from '{pattern}' order by source_row").fetchall()
    assert [{"number": number, "label": label} for number, label in by_duckdb] == expected
    assert pd.read_parquet(tmp_path / "out" / "data")[["number", "label"]].to_dict("records") == expected
    loaded = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.select_columns(["number", "label"]).to_list() == expected
