"""Images that kill the process that looks at them, and a cluster that changes under a running job."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from batch_runs import (
    DEADLY,
    actors,
    assert_every_row_once,
    commits,
    finish,
    processes_of,
    quarantine,
    start,
    wait_until,
    write_deadly_rows,
)
from color_model import write_artifact, write_rows
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray_nodes import add_node, ray_nodes

from cluster.planning import BatchOptions, Job, plan_job
from cluster.pool import shipment
from cluster.pool.ray_pool import RayPool
from cluster.pool.seats import seats
from cluster.pool.session import ray_session
from cluster.pool.shipping import contents
from cluster.pool.tasks import Kind, Outcome, Task
from runtime.proof import prove_isolated

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROWS = 400


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that all processes of this module share, in which marked images kill."""
    path = tmp_path_factory.mktemp("crashes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VEDETTE_HOME", str(path / "home"))
        patch.setenv("PYTHONPATH", str(DEADLY), prepend=os.pathsep)
        yield path


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    root = write_artifact(place / "model").root
    assert prove_isolated(root, "fp32", "CPUExecutionProvider").passed
    return root


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    """A Ray cluster of one machine with two cores and a GPU, which no driver is there for."""
    with ray_nodes({"num_cpus": 2, "num_gpus": 1}) as cluster:
        yield cluster
    wait_until(lambda: not processes_of(place / "home"), "all processes ended")


@pytest.fixture
def batch(model: Path, place: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command over *rows* into tmp_path/out."""
    started: list[subprocess.Popen[str]] = []

    def run(rows: Path, *arguments: str) -> subprocess.Popen[str]:
        env = {"VEDETTE_HOME": str(place / "home")}  # and PYTHONPATH is the module's
        started.append(start(model, rows, tmp_path / "out", *arguments, env=env))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def assert_quarantined(out: Path, rows: Path, deadly: dict[int, str]) -> None:
    assert_every_row_once(out, ROWS, deadly)
    found = [(row["source_file"], row["source_row"], row["reason"]) for row in quarantine(out)]
    assert found == [(str(rows), row, "crashed_worker") for row in sorted(deadly)]


def test_images_that_kill_their_worker_are_found_and_the_job_goes_on(batch, cluster, tmp_path):
    deadly = {77: "SIGKILL", 78: "SIGSEGV", 301: "SIGABRT"}
    rows = write_deadly_rows(tmp_path / "in.parquet", ROWS, deadly)
    arguments = ("--address", cluster.address, "--workers", "2", "--shard-rows", "25", "--max-retries", "0")
    summary = finish(batch(rows, *arguments))
    assert summary["bad_rows"] == {"crashed_worker": 3}
    assert summary["faults"]["crash"] >= 2 * len(deadly)
    assert_quarantined(tmp_path / "out", rows, deadly)


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV"])
def test_without_ray_the_process_dies_and_the_same_command_finds_the_images(batch, tmp_path, death):
    deadly = {77: death, 301: death}
    rows = write_deadly_rows(tmp_path / "in.parquet", ROWS, deadly)
    arguments = (rows, "--local", "--shard-rows", "25")
    first = batch(*arguments)
    first.communicate(timeout=60)
    assert first.returncode == -getattr(signal, death)
    summary = finish(batch(*arguments))
    assert summary["bad_rows"] == {"crashed_worker": 2}
    assert "process apart" in summary["remarks"][0]
    assert_quarantined(tmp_path / "out", rows, deadly)
    assert finish(batch(*arguments))["remarks"] == []


@pytest.fixture
def slow_rows(tmp_path: Path) -> Path:
    """Big pictures: workers have some seconds to do."""
    return write_rows(tmp_path / "slow.parquet", 2000, row_group=50, side=400)


def test_a_provider_that_is_not_there_is_reported_and_the_others_go_on(batch, cluster, slow_rows, tmp_path):
    summary = finish(batch(slow_rows, "--address", cluster.address, "--workers", "cuda=1,cpu=1"))
    assert len(summary["remarks"]) == 1
    assert summary["remarks"][0].startswith("no cuda workers: ")
    assert summary["ran_on"][0].startswith("fp32 on CPUExecutionProvider")
    assert_every_row_once(tmp_path / "out", 2000, ())


def test_a_gpu_on_which_nothing_is_proven_leaves_the_cores_to_work(batch, cluster, tmp_path):
    rows = write_deadly_rows(tmp_path / "in.parquet", ROWS, {})
    summary = finish(batch(rows, "--address", cluster.address))
    assert [remark.partition(" on node ")[0] for remark in summary["remarks"]] == ["no gpu workers"]
    assert summary["workers"] == 2
    assert_every_row_once(tmp_path / "out", ROWS, ())


@dataclass
class Unreadable:
    """A shard that the driver can send and no worker can read, as one of another version of Vedette may be."""

    id: str = "x"

    def __reduce__(self):
        return int, ("not a number",)


def outcomes(cluster: Cluster, job: Job, tasks: Sequence[Task]) -> list[Outcome]:
    """Return how *tasks* of *job* end, one after the other, on one worker of *cluster*."""
    found: list[Outcome] = []
    with ray_session(cluster.address, 1):
        pool = RayPool(job.models, job.spec, lambda nodes, refused: seats(nodes, {"cpu": 1}, "cpu", 1, refused))
        try:
            for number, task in enumerate(tasks, 1):
                wait_until(lambda task=task: found.extend(pool.wait(0.1)) or pool.offer(task), "room")
                wait_until(lambda number=number: found.extend(pool.wait(0.1)) or len(found) == number, "outcome")
        finally:
            pool.close()
    assert pool.workers == 1
    return found


def planned(model: Path, folder: Path) -> Job:
    """Return a job of one shard with *model*, whose output in *folder* is claimed."""
    folder.mkdir(exist_ok=True)
    rows = write_deadly_rows(folder / "in.parquet", 20, {})
    job = plan_job(BatchOptions(models=(str(model),), input=str(rows), output=str(folder / "out"), provider="cpu"))
    job.output.claim(job.record)
    return job


def test_a_worker_that_cannot_read_its_task_says_so_and_lives(cluster, model, tmp_path):
    job = planned(model, tmp_path)
    tasks = [Task(number=0, shard=Unreadable()), Task(number=1, shard=job.shards[0])]
    unreadable, done = outcomes(cluster, job, tasks)
    assert unreadable.failure.kind is Kind.ERROR
    assert "not a number" in unreadable.failure.text
    assert done.commit.rows == 20


def test_a_model_travels_to_a_worker_that_does_not_see_it_and_to_no_other(cluster, place, model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    unseen = planned(Path("/proc/self/cwd") / model.name, tmp_path)  # where the worker is, that is another folder
    kept = place / "home" / "cache" / "artifacts" / unseen.models[0].artifact.digest
    seen = planned(model, tmp_path / "seen")
    sent = []
    monkeypatch.setattr(shipment, "contents", lambda package: sent.append(package.root) or contents(package))
    for job, expected in ((seen, 0), (unseen, 1), (unseen, 1)):
        (outcome,) = outcomes(cluster, job, [Task(number=0, shard=job.shards[0])])
        assert outcome.failure is None
        assert len(sent) == expected  # the second time the worker's machine has kept it
        assert kept.is_dir() == bool(expected)


def asked(cluster: Cluster) -> list[dict[str, float]]:
    """Return what the autoscaler of *cluster* was asked for."""
    found = GcsClient(address=cluster.address).internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
    return json.loads(found or b"[]")


def test_workers_asked_for_by_number_are_asked_of_the_autoscaler(batch, cluster, slow_rows, tmp_path):
    driver = batch(slow_rows, "--address", cluster.address, "--workers", "gpu=1,cpu=3", "--shard-rows", "50")
    wait_until(lambda: asked(cluster) == [{"CPU": 1, "GPU": 1}, *[{"CPU": 1}] * 3], "a request")
    finish(driver)
    assert asked(cluster) == []
    assert_every_row_once(tmp_path / "out", 2000, ())


def test_nodes_join_and_leave_a_running_job(batch, cluster, slow_rows, tmp_path):
    out = tmp_path / "out"
    driver = batch(slow_rows, "--address", cluster.address, "--shard-rows", "20", "--provider", "cpu")
    wait_until(lambda: len(actors(out)) == 2, "commits of both cores of the first node")
    joined = add_node(cluster, num_cpus=1)
    wait_until(lambda: len(actors(out)) == 3, "commits of the node that joined")
    cluster.remove_node(joined, allow_graceful=False)
    finish(driver)
    assert_every_row_once(out, 2000, ())


def test_a_slow_worker_is_outrun_by_a_second_attempt(batch, cluster, slow_rows, tmp_path):
    out = tmp_path / "out"
    driver = batch(slow_rows, "--address", cluster.address, "--shard-rows", "50", "--workers", "2")
    wait_until(lambda: len(actors(out)) == 2, "commits of both workers")
    stopped = min(actors(out))
    os.kill(stopped, signal.SIGSTOP)
    try:
        summary = finish(driver)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
    assert summary["faults"]["second attempt"] >= 1
    assert_every_row_once(out, 2000, ())


def test_a_shard_that_takes_too_long_is_tried_by_another_worker(batch, cluster, slow_rows, tmp_path):
    out = tmp_path / "out"
    arguments = ("--address", cluster.address, "--shard-rows", "50", "--workers", "1", "--shard-timeout", "8")
    driver = batch(slow_rows, *arguments)
    wait_until(lambda: commits(out) >= 1, "a commit")
    (stopped,) = actors(out)
    os.kill(stopped, signal.SIGSTOP)
    summary = finish(driver)
    assert summary["faults"]["stuck"] >= 1
    assert_every_row_once(out, 2000, ())
