"""Whole jobs whose output is partitioned, and what reads it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import datasets
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from color_model import LABELS, picture, write_rows

from cluster import read_output, run_batch
from cluster.cli import batch
from cluster.errors import OtherJobError, PartitionError, SchemaError, ShardError
from cluster.output.commit import OutputDirectory
from cluster.output.partitions import NULL
from cluster.planning import plan_job

SITES = ("lab", "Werk 3/Süd", "50%", "a=b", "lab", None)  # of rows 0, 1, 2, ...; and so on
ROWS, BAD = 60, {13: b"no image"}
DAY = dt.date(2026, 11, 30)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows of sites in turn, 20 a shard, one of them bad."""
    numbers = range(ROWS)
    columns = {
        "image": pa.array([BAD.get(n, picture(n % 3)) for n in numbers], pa.binary()),
        "number": pa.array(numbers, pa.int32()),
        "site": [SITES[n % len(SITES)] for n in numbers],
        "color": pa.array([LABELS[n % 3] for n in numbers]).dictionary_encode(),
        "class": pa.array([n % 3 for n in numbers], pa.int64()),
        "even": [n % 2 == 0 for n in numbers],
        "day": [DAY + dt.timedelta(n // 20) for n in numbers],
        "price": pa.array([1.5] * ROWS),
        "label": pa.array([n % 2 for n in numbers], pa.int16()),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=20)
    return tmp_path / "in.parquet"


def expected(*columns: str, by: str, table: pa.Table) -> list[dict]:
    """What an output by *by* must hold, of the input *table*."""
    good = [row for row in table.to_pylist() if row["number"] not in BAD]
    ordered = sorted(good, key=lambda row: (row[by] is None, row[by]))
    return [{name: row[name] for name in columns} for row in ordered]


def on_disk(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in (out / "data").rglob("*") if path.is_file()}


def manifest(out: Path) -> dict:
    return json.loads((out / "_manifest.json").read_bytes())


def test_each_value_is_a_folder_with_one_file_and_the_column_is_in_the_path_alone(options, rows, tmp_path):
    summary = run_batch(options(keep=("number",), partition_by="site"))
    assert summary.rows == {"in": ROWS, "out": ROWS - 1, "quarantined": 1, "filtered": 0}
    entries = manifest(tmp_path / "out")["data"]
    assert [entry["partition"]["site"] for entry in entries] == ["50%", "Werk 3/Süd", "a=b", "lab", None]
    assert {entry["path"] for entry in entries} == on_disk(tmp_path / "out")
    folders = [entry["path"].split("/")[1:-1] for entry in entries]
    assert folders == [["site=50%25"], ["site=Werk 3%2FSüd"], ["site=a%3Db"], ["site=lab"], [f"site={NULL}"]]
    columns = pq.ParquetFile(tmp_path / "out" / entries[0]["path"]).schema_arrow
    assert columns.names[:3] == ["number", "source_file", "source_row"]
    assert columns.metadata[b"vedette.model"] == b"color"


@pytest.mark.parametrize("column", ["site", "color", "class", "even", "day"])
def test_the_column_comes_back_with_its_type_in_its_place(options, rows, tmp_path, column):
    run_batch(options(keep=(column, "number"), partition_by=column))
    table, given = read_output(tmp_path / "out"), pq.read_table(rows)
    assert table.column_names[:3] == [column, "number", "source_file"]
    assert table.schema.field(column) == given.schema.field(column)
    found = [{name: row[name] for name in (column, "number")} for row in table.to_pylist()]
    assert found == expected(column, "number", by=column, table=given)
    assert table.column("label_id").to_pylist() == [number % 3 for number in table.column("number").to_pylist()]


def test_but_for_the_order_the_rows_are_those_of_a_job_without_partitions(options, rows, tmp_path):
    run_batch(options(output=str(tmp_path / "plain"), keep=("number", "site", "image=picture")))
    run_batch(options(keep=("number", "site", "image=picture"), partition_by="site"))
    assert read_output(tmp_path / "out").sort_by("source_row").equals(read_output(tmp_path / "plain"))


def test_other_tools_read_what_is_there(options, rows, tmp_path):
    run_batch(options(keep=("number", "site"), partition_by="site"))
    data = tmp_path / "out" / "data"
    rest = expected("number", "site", by="number", table=pq.read_table(rows))
    by_duckdb = duckdb.sql(
        f"select number, site from read_parquet('{data}/**/*.parquet', hive_partitioning=true) order by number"
    ).fetchall()
    assert [{"number": number, "site": site} for number, site in by_duckdb] == rest
    by_pyarrow = ds.dataset(data, partitioning="hive").to_table(["number", "site"]).sort_by("number")
    assert by_pyarrow.to_pylist() == rest
    frame = pd.read_parquet(data, partitioning=ds.partitioning(flavor="hive")).sort_values("number")
    assert [{**row, "site": row["site"] if isinstance(row["site"], str) else None} for row in rest] == [
        {"number": number, "site": site if isinstance(site, str) else None}
        for number, site in zip(frame["number"], frame["site"], strict=True)
    ]
    only = ds.dataset(data, partitioning="hive").to_table(["number"], filter=ds.field("site") == "lab")
    assert sorted(only["number"].to_pylist()) == [row["number"] for row in rest if row["site"] == "lab"]


def test_hugging_face_takes_partitions_as_splits_and_all_rows_as_one(options, rows, tmp_path):
    run_batch(options(keep=("number", "site"), partition_by="site"))
    data, rest = tmp_path / "out" / "data", expected("number", "site", by="number", table=pq.read_table(rows))
    files = {"lab": f"{data}/site=lab/*.parquet", "every": f"{data}/**/*.parquet"}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert loaded["lab"]["number"][:] == [row["number"] for row in rest if row["site"] == "lab"]
    assert sorted(loaded["every"]["number"]) == [row["number"] for row in rest]
    whole = datasets.Dataset(read_output(tmp_path / "out")).select_columns(["number", "site"])
    assert sorted(whole.to_list(), key=lambda row: row["number"]) == rest


def test_pandas_reads_partitions_without_null_as_they_are(options, rows, tmp_path):
    run_batch(options(keep=("number", "class"), partition_by="class"))
    frame = pd.read_parquet(tmp_path / "out" / "data").sort_values("number")
    assert [int(value) for value in frame["class"]] == [number % 3 for number in frame["number"]]
    assert len(frame) == ROWS - 1


@pytest.mark.parametrize(
    ("keep", "by", "called"), [((), "label", "input_label"), (("site=plant",), "site", "plant"), ((), "site", "site")]
)
def test_the_folder_is_called_as_the_column_is_in_the_output(options, rows, tmp_path, keep, by, called):
    run_batch(options(keep=keep, partition_by=by))
    assert all(path.startswith(f"data/{called}=") for path in on_disk(tmp_path / "out"))
    assert called in read_output(tmp_path / "out").column_names


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("price", "column 'price' is double; a partition is of text, integers, booleans or dates"),
        ("image", "column 'input_image' is binary|column 'image' is binary"),
        ("sit", "no column 'sit'"),
        ("site=plant", "expected a column of the input"),
    ],
)
def test_what_makes_no_partitions_is_refused_before_anything_is_written(options, rows, tmp_path, by, said):
    with pytest.raises(SchemaError, match=said):
        plan_job(options(partition_by=by))
    assert not (tmp_path / "out").exists()


def test_another_column_is_another_job(options, rows):
    given = {"keep": ("site", "class")}
    run_batch(options(**given, partition_by="site"))
    assert run_batch(options(**given, partition_by="site")).processed_rows == 0
    with pytest.raises(OtherJobError, match=r"partition by 'site' \(now 'class'"):
        run_batch(options(**given, partition_by="class"))
    with pytest.raises(OtherJobError, match=r"partition by 'site' \(now None"):
        run_batch(options(**given))


@pytest.mark.parametrize("label", ["color", "class"])
def test_answers_are_judged_by_the_column_of_the_partitions(options, rows, tmp_path, label):
    (judged,) = run_batch(options(evaluate=label, partition_by=label)).evaluations
    assert (judged.judged, judged.metrics["top1"]) == (ROWS - 1, 1.0)
    run_batch(options(output=str(tmp_path / "other"), evaluate="label", partition_by="site", keep=("label",)))
    report = json.loads((tmp_path / "other" / "report.json").read_bytes())
    assert report["evaluations"][0]["metrics"]["top1"] == pytest.approx(
        sum(n % 2 == n % 3 for n in range(ROWS)) / 59, abs=0.02
    )
    assert report["classes"][0]["counts"] == {"red": 20, "blue": 20, "green": 19}
    assert report["lineage"]["options"]["partition by"] == "site"


def test_more_values_than_allowed_in_a_shard_end_the_job(options, rows, tmp_path):
    with pytest.raises(ShardError, match=r"--partition-by number: the column has .* --max-partitions allows 5"):
        run_batch(options(partition_by="number", max_partitions=5))
    assert on_disk(tmp_path / "out") == set()


def test_more_values_than_allowed_in_all_shards_end_the_job_which_goes_on_with_a_higher_bound(options, rows, tmp_path):
    with pytest.raises(PartitionError, match="--partition-by day: the column has 3 different values"):
        run_batch(options(partition_by="day", max_partitions=2, workers="1"))
    with pytest.raises(PartitionError, match="--partition-by day"):  # what earlier runs committed counts
        run_batch(options(partition_by="day", max_partitions=2, workers="1"))
    summary = run_batch(options(partition_by="day", max_partitions=3))
    assert summary.shards["resumed"] == 3
    assert read_output(tmp_path / "out").num_rows == ROWS - 1


@pytest.mark.parametrize("died_at", ["_merged/", "_manifest.json", "_SUCCESS", "remove"])
def test_a_driver_that_dies_while_it_joins_loses_and_doubles_nothing(options, rows, tmp_path, monkeypatch, died_at):
    class Died(BaseException):
        pass

    store = type(OutputDirectory.open(tmp_path / "out").store)
    create, remove, deaths = store.create, store.remove, []

    def dying_create(self, key, data):
        if key.startswith(died_at):
            deaths.append(key)
            if died_at != "_merged/" or len(deaths) > 2:  # some of the partitions were joined
                raise Died
        create(self, key, data)

    def dying_remove(self, key):
        if died_at == "remove":
            deaths.append(key)
            if len(deaths) > 2:
                raise Died
        remove(self, key)

    monkeypatch.setattr(store, "create", dying_create)
    monkeypatch.setattr(store, "remove", dying_remove)
    with pytest.raises(Died):
        run_batch(options(keep=("number",), partition_by="site"))
    monkeypatch.undo()
    summary = run_batch(options(keep=("number",), partition_by="site"))
    assert summary.processed_rows == 0  # no shard is run again
    table = read_output(tmp_path / "out")
    found = [{"number": row["number"], "site": row["site"]} for row in table.to_pylist()]
    assert found == expected("number", "site", by="site", table=pq.read_table(rows))
    assert on_disk(tmp_path / "out") == {entry["path"] for entry in manifest(tmp_path / "out")["data"]}


def test_files_that_are_not_joined_are_left_as_the_shards_wrote_them(options, rows, tmp_path):
    run_batch(options(keep=("number",), partition_by="site", file_bytes=0))
    assert len(on_disk(tmp_path / "out")) == 3 * 5
    found = read_output(tmp_path / "out").column("number").to_pylist()
    assert found == [row["number"] for row in expected("number", by="site", table=pq.read_table(rows))]


@pytest.mark.parametrize("filter_", ["number < 0", "number >= 40"])
def test_shards_without_rows_leave_nothing_and_an_output_without_any_can_be_read(options, rows, tmp_path, filter_):
    run_batch(options(keep=("number",), partition_by="site", filter=filter_))
    table = read_output(tmp_path / "out")
    assert sorted(table.column("number").to_pylist()) == list(range(40, ROWS) if ">" in filter_ else [])
    assert table.schema.field("site").type == pa.string()
    assert on_disk(tmp_path / "out") == {entry["path"] for entry in manifest(tmp_path / "out")["data"]}
    data = tmp_path / "out" / "data"
    query = f"select number, site from read_parquet('{data}/**/*.parquet', hive_partitioning=true)"
    assert len(duckdb.sql(query).fetchall()) == table.num_rows


def test_the_commands_take_and_show_it(options, rows, tmp_path):
    given = options()
    arguments = ["run", "--model", given.models[0], "--input", given.input, "--output", given.output, "--local"]
    arguments += ["--provider", "cpu", "--keep", "number,color", "--partition-by", "color", "--json"]
    plan = CliRunner().invoke(batch, [*arguments, "--dry-run"])
    assert json.loads(plan.output)["partition_by"] == "color"
    done = CliRunner().invoke(batch, arguments)
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(batch, ["read", given.output, "--json"])
    assert [row["color"] for row in json.loads(shown.output)] == ["blue"] * 20 + ["green"] * 19 + ["red"] * 20
    written = CliRunner().invoke(batch, ["read", given.output, "--out", str(tmp_path / "all.parquet")])
    assert written.exit_code == 0, written.output
    assert pq.read_table(tmp_path / "all.parquet").equals(read_output(tmp_path / "out"))


def test_partitions_of_an_input_that_is_sorted_by_them_are_ranges_of_it(options, tmp_path):
    write_rows(tmp_path / "in" / "0.parquet", 30)
    write_rows(tmp_path / "in" / "1.parquet", 30, first=30)
    run_batch(options(input=str(tmp_path / "in"), keep=("number",), partition_by="name"))
    numbers = read_output(tmp_path / "out").column("number").to_pylist()
    assert numbers == [n for color in (2, 1, 0) for n in range(60) if n % 3 == color]
