"""`vedette batch` as a user runs it: real processes, real Ray, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import actors, assert_nothing_besides, commits, finish, processes_of, quarantine, start, wait_until
from batch_runs import assert_every_row_once as assert_each_once
from color_model import write_artifact, write_rows
from ray.cluster_utils import Cluster
from ray_nodes import ray_nodes

from cluster import read_output
from cluster.output.read import read_manifest
from runtime.artifact import Artifact
from runtime.predictor import Predictor
from runtime.proof import prove_isolated

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROWS = 4000
SHARD_ROWS = 50
BAD_ROW = 765
MODES = [pytest.param(("--local",), id="local"), pytest.param(("--workers", "2"), id="ray")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = write_artifact(tmp_path / "model").root
    assert prove_isolated(root, "fp32", "CPUExecutionProvider").passed
    return root


def write_input(folder: Path, side: int) -> Path:
    for part in range(4):
        bad = {BAD_ROW: b"no image"} if part == 0 else {}
        path = folder / f"{part}.parquet"
        write_rows(path, ROWS // 4, first=part * ROWS // 4, row_group=200, bad=bad, side=side)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in", side=12)


@pytest.fixture
def slow_rows(tmp_path: Path) -> Path:
    """The same rows with bigger pictures: workers have some seconds to do."""
    return write_input(tmp_path / "slow", side=400)


@pytest.fixture
def batch(model: Path, rows: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command over the rows into tmp_path/out; further arguments count after the usual ones."""

    def run(*arguments: str) -> subprocess.Popen[str]:
        started.append(start(model, rows, tmp_path / "out", "--shard-rows", str(SHARD_ROWS), *arguments))
        return started[-1]

    started: list[subprocess.Popen[str]] = []
    yield run
    for process in started:
        process.kill()
        process.communicate()


def refused(process: subprocess.Popen[str]) -> str:
    """Return the one line of stderr, without the prefix, of a call that must fail without a traceback."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode in {1, 2}, (stdout, stderr)
    lines = [line for line in stderr.splitlines() if not line.startswith("batch: ")]  # progress
    assert len(lines) == 1, stderr
    assert lines[0].startswith("vedette: error: ")
    return lines[0]


def assert_every_row_once(out: Path) -> None:
    assert_each_once(out, ROWS, {BAD_ROW})
    (bad,) = quarantine(out)
    assert (bad["source_row"], bad["reason"]) == (BAD_ROW, "not_an_image")


@pytest.fixture(autouse=True)
def _nothing_is_left_running(home: Path) -> Iterator[None]:
    yield
    wait_until(lambda: not processes_of(home), f"all processes ended; left are {processes_of(home)}")


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_driver_and_the_same_command_again_give_every_row_once(batch, tmp_path, home, mode):
    out = tmp_path / "out"
    driver = batch(*mode)
    wait_until(lambda: commits(out) >= 10, "ten commits")
    driver.kill()
    driver.communicate()
    before = commits(out)
    assert before < ROWS / SHARD_ROWS
    assert not (out / "_SUCCESS").exists()
    summary = finish(batch("--local"))
    assert summary["rows"] == {"in": ROWS, "out": ROWS - 1, "quarantined": 1, "filtered": 0}
    assert summary["shards"]["resumed"] >= before
    assert_every_row_once(out)


def test_killed_and_stuck_actors_lose_and_double_no_row(batch, slow_rows, tmp_path):
    out = tmp_path / "out"
    driver = batch("--workers", "2", "--stall-timeout", "4", "--input", str(slow_rows))
    wait_until(lambda: commits(out) >= 5 and len(actors(out)) == 2, "commits of both actors")
    killed, stuck = actors(out)
    os.kill(killed, signal.SIGKILL)
    os.kill(stuck, signal.SIGSTOP)
    summary = finish(driver)
    assert summary["shards"]["committed"] + summary["shards"]["elsewhere"] == summary["shards"]["total"]
    assert_every_row_once(out)
    assert len(actors(out)) >= 3


@pytest.mark.parametrize(
    ("mode", "number"),
    [(("--local",), signal.SIGINT), (("--local",), signal.SIGTERM), (("--workers", "2"), signal.SIGTERM)],
    ids=["local-INT", "local-TERM", "ray-TERM"],
)
def test_a_signal_ends_the_driver_and_all_it_started_with_one_line(batch, tmp_path, mode, number):
    driver = batch(*mode)
    wait_until(lambda: commits(tmp_path / "out") >= 5, "five commits")
    driver.send_signal(number)
    _, stderr = driver.communicate(timeout=30)
    assert driver.returncode == 130
    (line,) = [line for line in stderr.splitlines() if not line.startswith("batch: ")]
    assert f"stopped by {number.name}" in line
    assert "run the same command again" in line


def test_two_drivers_at_the_same_time_do_each_row_once(batch, tmp_path):
    drivers = [batch("--local"), batch("--local")]
    summaries = [finish(driver) for driver in drivers]
    assert sum(summary["shards"]["committed"] for summary in summaries) == ROWS // SHARD_ROWS
    assert_every_row_once(tmp_path / "out")
    assert_nothing_besides(tmp_path / "out")


def test_of_two_drivers_that_partition_one_is_killed_and_each_row_is_there_once(batch, tmp_path):
    out = tmp_path / "out"
    killed, left = (batch("--local", "--partition-by", "name") for _ in range(2))
    wait_until(lambda: commits(out) >= 10, "ten commits")
    killed.kill()
    killed.communicate()
    assert not (out / "_SUCCESS").exists()
    assert finish(left)["rows"] == {"in": ROWS, "out": ROWS - 1, "quarantined": 1, "filtered": 0}
    table = read_output(out)
    by_name = [[n for n in range(ROWS) if n % 3 == color and n != BAD_ROW] for color in (2, 1, 0)]
    assert table.column("number").to_pylist() == [number for numbers in by_name for number in numbers]
    assert table.column("name").equals(table.column("label"))
    files = {path.relative_to(out).as_posix() for path in (out / "data").rglob("*.parquet")}
    assert files == {file.path for file in read_manifest(str(out)).data}


@pytest.fixture
def two_nodes(home: Path) -> Iterator[Cluster]:
    """A Ray cluster of two machines, as far as Ray can tell."""
    with ray_nodes(*[{"num_cpus": 1}] * 2) as cluster:
        yield cluster


def test_a_cluster_that_loses_a_node_finishes_the_job_and_stays(batch, two_nodes, slow_rows, tmp_path):
    out = tmp_path / "out"
    driver = batch("--address", two_nodes.address, "--input", str(slow_rows))
    wait_until(lambda: len(actors(out)) == 2, "commits of both nodes")
    (worker,) = two_nodes.worker_nodes
    two_nodes.remove_node(worker, allow_graceful=False)
    finish(driver)
    assert_every_row_once(out)
    assert two_nodes.head_node.any_processes_alive()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_full_disk_is_one_line_and_nothing_is_committed_half(batch, small_disk, mode):
    out = small_disk / "out"
    line = refused(batch("--output", str(out), *mode))
    assert "no space left on device" in line
    assert str(out) in line
    assert not (out / "_SUCCESS").exists()
    committed = [json.loads(path.read_bytes()) for path in out.glob("_commits/[!.]*.json")]
    assert 0 < len(committed) < ROWS / SHARD_ROWS
    for commit in committed:
        assert pq.read_table(out / commit["data"]["path"]).num_rows == commit["data"]["rows"]
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    summary = finish(batch("--output", str(out), "--local"))
    assert summary["shards"]["resumed"] == len(committed)
    assert_every_row_once(out)


def test_wrong_calls_and_broken_input_are_one_line(batch, rows, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    cases = [
        (("--keep", "nope"), "'nope'; its columns are: image, number, name"),
        (("--image-column", "nope"), "no column 'nope'"),
        (("--input", str(tmp_path / "broken.parquet")), "not a readable Parquet file"),
        (("--input", str(tmp_path / "empty.parquet")), "empty"),
        (("--input", str(tmp_path / "absent")), "does not exist"),
        (("--model", "unknown"), "unknown"),
        (("--filter", "number ~ 3"), "--filter"),
        (("--workers", "lots"), "--workers"),
        (("--batch-size", "0"), "--batch-size"),
        (("--provider", "quantum"), "quantum"),
        (("--address", "127.0.0.1:1"), "--local runs without Ray"),
    ]
    engines = [() if "--address" in arguments else ("--local",) for arguments, _ in cases]
    calls = [batch(*engine, *arguments) for engine, (arguments, _) in zip(engines, cases, strict=True)]
    for call, (_, text) in zip(calls, cases, strict=True):
        assert text in refused(call)


def test_workers_that_cannot_start_are_one_line(batch):
    assert "quantum" in refused(batch("--workers", "1", "--provider", "quantum"))


def test_a_row_group_that_is_damaged_fails_the_job_with_its_place(batch, rows, tmp_path):
    path = rows / "2.parquet"
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(3).column(0)
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset)
        file.write(b"\xff" * 40)
    line = refused(batch("--local"))
    assert "2.parquet" in line
    assert "cannot be read" in line
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_hugging_face_parquet_gives_what_the_predictor_says(batch, tmp_path, test_data, model):
    path = test_data("images/cifar10_2000_hf.parquet")
    finish(batch("--input", str(path), "--keep", "label=truth", "--filter", "label == 3", "--local"))
    source = pq.read_table(path)
    table = read_output(tmp_path / "out")
    numbers = [n for n, label in enumerate(source.column("label").to_pylist()) if label == 3]
    assert table.column("source_row").to_pylist() == numbers
    assert set(table.column("truth").to_pylist()) == {3}
    images = [source.column("img")[n].as_py()["bytes"] for n in numbers]
    expected = Predictor(Artifact.open(model), provider="cpu").predict(images)
    assert table.column("label_id").to_pylist() == [one.label_id for one in expected]
    np.testing.assert_allclose(table.column("score").to_numpy(), [one.score for one in expected], rtol=1e-5)
