"""Whole batch jobs on a real S3 server, undisturbed and through faults: the rows are those of a run on a disk."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from color_model import LABELS, picture, write_artifact, write_rows
from pyarrow.dataset import dataset
from pyarrow.fs import S3FileSystem
from s3_server import BUCKET, Proxy, first, seeded

from cluster import BatchOptions, read_output, run_batch
from cluster.errors import InputChangedError, OutputError, ShardError, StorageError
from cluster.output.commit import OutputDirectory
from cluster.planning import plan_job
from cluster.storage import Store, open_store
from cluster.storage.fetch import Fetcher, FetchLimits
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads
from runtime.errors import DatasetError, ImageError
from runtime.objects import Patience
from runtime.proof import prove_isolated

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROWS = 300
BAD_ROW = 77
HASTY = Patience(retries=2, first_wait=0.01, longest_wait=0.02, total=10, answer=1)


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path) -> str:
    """A URL that no other test uses."""
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = write_artifact(tmp_path / "model").root
    assert prove_isolated(root, "fp32", "CPUExecutionProvider").passed
    return root


@pytest.fixture
def options(model: Path, place: str) -> Callable[..., BatchOptions]:
    def make(**changes) -> BatchOptions:
        given = {
            "models": (str(model),),
            "input": f"{place}/in",
            "output": f"{place}/out",
            "local": True,
            "workers": "2",
            "shard_rows": 20,
            "provider": "cpu",
            "keep": ("number",),
        }
        return BatchOptions(**{**given, **changes})

    return make


def write_input(folder: Path) -> Path:
    for part in range(3):
        bad = {BAD_ROW: b"no image"} if part == 0 else {}
        write_rows(folder / f"{part}.parquet", ROWS // 3, first=part * ROWS // 3, row_group=25, bad=bad)
    return folder


def upload(folder: Path, store: Store) -> None:
    for path in folder.rglob("*.*"):
        store.put(path.relative_to(folder).as_posix(), path.read_bytes())


def vedette(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("vedette")), "batch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(table: pa.Table) -> pa.Table:
    """Return *table* without where its rows were read."""
    return table.drop_columns(["source_file"])


@pytest.mark.parametrize("mode", [("--local",), ("--workers", "2")], ids=["local", "ray"])
def test_a_job_through_faults_writes_the_rows_of_an_undisturbed_job_on_a_disk(model, tmp_path, place, proxy, mode):
    folder = write_input(tmp_path / "in")
    upload(folder, open_store(f"{place}/in"))
    usual = ["run", "--model", str(model), "--keep", "number", "--shard-rows", "20", "--json", *mode]
    vedette(*usual, "--local", "--input", str(folder), "--output", str(tmp_path / "out"))
    proxy.plan = seeded(5, 0.08)
    summary = json.loads(vedette(*usual, "--input", f"{place}/in", "--output", f"{place}/out"))
    assert proxy.faults > 10
    proxy.plan = seeded(6, 0.08)
    vedette("read", f"{place}/out", "--out", str(tmp_path / "read.parquet"))
    proxy.plan = lambda _method, _path: None
    assert summary["rows"] == {"in": ROWS, "out": ROWS - 1, "quarantined": 1, "filtered": 0}
    assert answers(pq.read_table(tmp_path / "read.parquet")) == answers(read_output(tmp_path / "out"))
    output = OutputDirectory.open(f"{place}/out")
    assert {file.path for file in output.finished().data} == set(output.store.entries("data/"))  # joined; no rest
    assert {file.path for file in output.finished().quarantine} <= set(output.store.entries("quarantine/"))
    (bad,) = output.finished().quarantine
    rows = pq.read_table(pa.BufferReader(output.store.read(bad.path))).to_pylist()
    assert [(row["source_file"], row["source_row"], row["reason"]) for row in rows] == [
        (f"{place}/in/0.parquet", BAD_ROW, "not_an_image")
    ]


def test_partitions_through_faults_are_those_of_an_undisturbed_job_on_a_disk(options, tmp_path, place, proxy):
    sites = ["lab", "Werk 3/Süd", "50%", "a=b&c+d", None]
    for path in sorted(write_input(tmp_path / "in").iterdir()):
        table = pq.read_table(path)
        column = pa.array([sites[number % len(sites)] for number in table["number"].to_pylist()])
        pq.write_table(table.append_column("site", column), path, row_group_size=25)
    upload(tmp_path / "in", open_store(f"{place}/in"))
    run_batch(options(input=str(tmp_path / "in"), output=str(tmp_path / "out"), partition_by="site"))
    proxy.plan = seeded(7, 0.08)
    run_batch(options(partition_by="site"))
    assert proxy.faults > 10
    found = read_output(f"{place}/out")
    proxy.plan = lambda _method, _path: None
    assert answers(found) == answers(read_output(tmp_path / "out"))
    output = OutputDirectory.open(f"{place}/out")
    manifest = output.finished()
    assert [file.partition["site"] for file in manifest.data] == ["50%", "Werk 3/Süd", "a=b&c+d", "lab", None]
    assert {file.path for file in manifest.data} == set(output.store.entries("data/"))  # of no attempt anything is left
    s3 = S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region="us-east-1")
    listed = dataset(f"{place.removeprefix('s3://')}/out/data", filesystem=s3, partitioning="hive")
    columns = ["number", "site", "label"]
    assert listed.to_table(columns).sort_by("number").to_pylist() == found.select(columns).sort_by("number").to_pylist()


def test_the_planner_reads_footers_only_and_a_finished_job_reads_no_images(options, tmp_path, place, proxy):
    upload(write_input(tmp_path / "in"), open_store(f"{place}/in"))
    proxy.seen.clear()
    plan_job(options())
    assert proxy.count("GET", ".parquet") <= 4  # a footer a file; that of the first once more for the columns
    assert proxy.count("HEAD") == 0
    run_batch(options())
    proxy.seen.clear()
    assert run_batch(options()).processed_rows == 0
    assert proxy.count("GET", "/in/") <= 4


def test_images_of_which_no_row_matches_the_filter_are_not_read(options, tmp_path, place, proxy):
    table = pa.table({"image": [os.urandom(100_000)] * 60, "number": range(60)})
    pq.write_table(table, tmp_path / "in.parquet", compression="none", use_dictionary=False)
    open_store(f"{place}/in").put("in.parquet", (tmp_path / "in.parquet").read_bytes())
    job = plan_job(options(filter="number < 0", shard_rows=60))
    job.output.claim(job.record)
    proxy.seen.clear()
    assert ShardWorker(job.models, job.spec, Threads()).run(job.shards[0]).filtered == 60
    assert proxy.count("GET", "in.parquet") == 2  # the footer, and the numbers


def test_a_split_and_a_single_file_of_a_bucket(options, tmp_path, place):
    for name in ("train-0.parquet", "test/0.parquet", "_hidden/x.parquet"):
        data = write_rows(tmp_path / "one.parquet", 10).read_bytes()
        open_store(f"{place}/in").put(name, data)
    for uri, files in (("in", 2), ("in#test", 1), ("in/train-0.parquet", 1)):
        assert len(plan_job(options(input=f"{place}/{uri}")).source.files) == files
    with pytest.raises(DatasetError, match="no Parquet file of split 'valid'"):
        plan_job(options(input=f"{place}/in#valid"))
    with pytest.raises(DatasetError, match="there is no Parquet file; an object store is read as Parquet only"):
        plan_job(options(input=f"{place}/nothing"))


def test_an_object_that_changes_after_the_plan_is_an_error(options, tmp_path, place):
    store = open_store(f"{place}/in")
    upload(write_input(tmp_path / "in"), store)
    job = plan_job(options())
    job.output.claim(job.record)
    store.put("0.parquet", write_rows(tmp_path / "other.parquet", 100, first=5).read_bytes())
    worker = ShardWorker(job.models, job.spec, Threads())
    with pytest.raises(InputChangedError, match=r"0\.parquet changed after the job was planned"):
        worker.run(job.shards[0])
    assert worker.run(job.shards[-1]).rows


def test_an_output_inside_the_input_is_refused(options, tmp_path, place):
    upload(write_input(tmp_path / "in"), open_store(f"{place}/in"))
    with pytest.raises(OutputError, match="lies inside the input"):
        plan_job(options(output=f"{place}/in/out/"))
    assert plan_job(options(output=f"{place}/in-out"))


# ------------------------------------------------------------------------------- images by URL


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of tmp_path/web."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "web").mkdir()
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def put_urls(store: Store, urls: list[str | None]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"url": urls, "number": range(len(urls))}), buffer)
    store.put("urls.parquet", buffer.getvalue())


def test_images_are_fetched_wherever_they_are_and_bad_ones_are_quarantined(options, tmp_path, place, web):
    store = open_store(f"{place}/in")
    store.put("images/red.png", picture(0))
    store.put("images/text.png", b"no image")
    for folder in (tmp_path, tmp_path / "web"):
        (folder / "green ü.png").write_bytes(picture(1))
    urls: Mapping[str | None, str] = {
        f"{place}/in/images/red.png": "red",
        "images/red.png": "red",
        "./images/red.png": "red",
        f"file://{tmp_path}/green ü.png": "green",
        f"{web}/green%20%C3%BC.png?signature=a%2Fb": "green",
        str(tmp_path / "green ü.png"): "green",
        f"{place}/in/images/none.png": "missing",
        "images/text.png": "not_an_image",
        f"{web}/none.png": "missing",
        "gopher://host/x.png": "missing",
        f"file://{tmp_path}/none.png": "missing",
        None: "missing",
    }
    put_urls(store, list(urls))
    run_batch(options(image_column="url"))
    good = {row["number"]: row["label"] for row in read_output(f"{place}/out").to_pylist()}
    manifest = OutputDirectory.open(f"{place}/out").finished()
    bad = {}
    for file in manifest.quarantine:
        table = pq.read_table(pa.BufferReader(open_store(f"{place}/out").read(file.path)))
        bad |= {row["source_row"]: row["reason"] for row in table.to_pylist()}
    assert [(good | bad)[row] for row in range(len(urls))] == list(urls.values())
    assert set(good.values()) <= set(LABELS)


def test_images_are_fetched_at_a_time_within_the_limit(options, place, proxy):
    store = open_store(f"{place}/in")
    for number in range(60):
        store.put(f"{number}.png", picture(number % 3))
    put_urls(store, [f"{number}.png" for number in range(60)])
    job = plan_job(options(image_column="url", fetch_concurrency=5, shard_rows=60))
    job.output.claim(job.record)
    proxy.seen.clear()
    proxy.most_at_a_time = 0
    proxy.plan = seeded(1, 0.1, ("500", "503", "cut"))
    assert ShardWorker(job.models, job.spec, Threads()).run(job.shards[0]).data.rows == 60
    assert 3 <= proxy.most_at_a_time <= 5


def test_an_image_that_is_too_large_is_not_fetched(place, web, tmp_path):
    store = open_store(place)
    store.put("big.png", b"x" * 2000)
    (tmp_path / "web" / "big.png").write_bytes(b"x" * 2000)
    fetcher = Fetcher(FetchLimits(size=1999))
    for url in (f"{place}/big.png", f"{web}/big.png"):
        error = fetcher.fetch(url)
        assert isinstance(error, ImageError)
        assert (error.reason, "2000 bytes" in error.detail) == ("too_large", True)
    assert Fetcher(FetchLimits(size=2000)).fetch(f"{web}/big.png") == b"x" * 2000


@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "hang"])
@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_a_store_that_is_down_says_nothing_about_the_row(place, proxy, fault, scheme):
    open_store(place).put("red.png", picture(0))
    url = f"{place}/red.png"
    if scheme == "http":
        url = obstore.sign(open_store(place).objects, "GET", "red.png", timedelta(hours=1))
    proxy.plan = first(2, fault)
    fetcher = Fetcher(FetchLimits(patience=HASTY, timeout=1))
    assert fetcher.fetch(url) == picture(0)
    proxy.plan = first(10_000, fault)
    hasty = Patience(retries=0, first_wait=0.01, total=0.5, answer=0.2)
    with pytest.raises(StorageError, match=re.escape(url)):
        Fetcher(FetchLimits(patience=hasty, timeout=0.2)).fetch(url)


def test_a_shard_whose_images_cannot_be_fetched_fails_and_names_the_url(options, place, proxy, monkeypatch):
    put_urls(open_store(f"{place}/in"), ["http://127.0.0.1:9/red.png"])
    monkeypatch.setattr("cluster.storage.fetch.HTTP_RETRIES", 1)
    with pytest.raises(ShardError, match=r"http://127\.0\.0\.1:9/red\.png: the server failed"):
        run_batch(options(image_column="url", max_retries=1))
    assert OutputDirectory.open(f"{place}/out").commits() == {}
