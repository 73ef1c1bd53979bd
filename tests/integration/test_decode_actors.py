"""Decode actors on a real Ray cluster of several nodes: the same rows, also when actors are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
from batch_runs import assert_every_row_once, commits, finish, processes_of, quarantine, start, wait_until
from color_model import write_artifact, write_rows
from ray.cluster_utils import Cluster
from ray_nodes import ray_nodes

from cluster.planning import BatchOptions, Job, plan_job
from cluster.pool.decode_actors import Crew, DecodeActors
from cluster.pool.session import cluster_nodes, ray_session
from cluster.pool.shipment import ship
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads
from runtime.proof import prove_isolated

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROWS = 1200
BAD = {7: b"", 500: b"no image at all", 1111: None}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("decoding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VEDETTE_HOME", str(path / "home"))
        yield path


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    root = write_artifact(place / "model").root
    assert prove_isolated(root, "fp32", "CPUExecutionProvider").passed
    return root


@pytest.fixture(scope="module")
def rows(place: Path) -> Path:
    """Big pictures: decoding them takes its time."""
    return write_rows(place / "in.parquet", ROWS, side=400, bad=BAD)


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    """A cluster of two nodes, which no driver is there for."""
    with ray_nodes(*[{"num_cpus": 2}] * 2) as cluster:
        yield cluster
    wait_until(lambda: not processes_of(place / "home"), "all processes ended")


@pytest.fixture
def batch(model: Path, rows: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        started.append(start(model, rows, tmp_path / "out", *arguments))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def decoding(home: Path) -> list[psutil.Process]:
    """Return the processes of decode actors."""
    found = []
    for process in processes_of(home):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::_Decode") or "_DecodeBody" in " ".join(process.cmdline()):
                found.append(process)
    return found


def assert_right(out: Path) -> None:
    assert_every_row_once(out, ROWS, BAD)
    assert [row["source_row"] for row in quarantine(out)] == list(BAD)


def test_a_job_with_decode_actors_has_the_rows_of_one_without(batch, cluster, tmp_path):
    arguments = ("--address", cluster.address, "--workers", "1", "--decode-actors", "2", "--shard-rows", "200")
    summary = finish(batch(*arguments))
    assert "2 decode actors" in summary["ran_on"][0]
    assert summary["workers"] == 1
    assert_right(tmp_path / "out")


def test_decode_actors_that_are_killed_cost_no_row(batch, cluster, place, tmp_path):
    out = tmp_path / "out"
    arguments = ("--address", cluster.address, "--workers", "1", "--decode-actors", "2", "--shard-rows", "100")
    driver = batch(*arguments)
    killed = set()
    for enough in (1, 4):
        wait_until(lambda enough=enough: commits(out) >= enough and decoding(place / "home"), "commits")
        victim = decoding(place / "home")[0]
        killed.add(victim.pid)
        victim.kill()
    summary = finish(driver)
    assert len(killed) == 2
    assert "crash" not in summary["faults"]  # of no worker
    assert_right(out)


def test_more_actors_than_cores_are_fewer_and_the_job_says_so(batch, cluster, tmp_path):
    arguments = ("--address", cluster.address, "--workers", "auto", "--provider", "cpu", "--decode-actors", "3")
    summary = finish(batch(*arguments))
    assert summary["workers"] == 1  # of four cores, three decode
    assert_right(tmp_path / "out")
    more = start(Path("/nowhere"), Path("/nowhere"), tmp_path / "none", "--local", "--decode-actors", "1")
    _, said = more.communicate(timeout=60)
    assert more.returncode != 0
    assert "--decode-actors needs a Ray cluster" in said


@pytest.fixture
def job(model: Path, rows: Path, tmp_path: Path) -> Job:
    options = BatchOptions(
        models=(str(model),),
        input=str(rows),
        output=str(tmp_path / "out"),
        provider="cpu",
        shard_rows=ROWS,
        batch_size=16,
    )
    job = plan_job(options)
    job.output.claim(job.record)
    return job


def test_the_actors_really_do_the_work_and_the_worker_does_what_a_dead_one_left(cluster, job):
    with ray_session(cluster.address, 1):
        crew = Crew(cluster_nodes(), 2, ship(job.models, whole=True), job.spec)
        try:
            worker = ShardWorker(job.models, job.spec, Threads(decode=1), DecodeActors(crew.reach))
            pids = [ray.get(handle.__ray_call__.remote(lambda _: os.getpid())) for handle in crew.reach[0]]
            kill = threading.Thread(target=_kill_when_busy, args=(pids[0], worker))
            kill.start()
            commit = worker.run(job.shards[0])
            kill.join()
            assert commit.rows == ROWS
            assert commit.reasons == {"empty": 1, "not_an_image": 1, "missing": 1}
            assert worker._elsewhere.answered > worker._elsewhere.unanswered > 0
            until = time.monotonic() + 60  # Ray starts it again
            while ray.get(crew.reach[0][0].__ray_call__.remote(lambda _: os.getpid())) == pids[0]:
                assert time.monotonic() < until
        finally:
            crew.close()


def _kill_when_busy(pid: int, worker: ShardWorker) -> None:
    wait_until(lambda: worker._elsewhere.answered > 2, "some answers")
    os.kill(pid, signal.SIGKILL)
