"""`vedette batch submit` and what follows it, against a real Ray cluster, a real controller and real outputs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from batch_runs import assert_nothing_besides
from color_model import LABELS, write_artifact, write_rows
from fleet_lab import lab, wait_for
from postgres_server import postgres_url
from prometheus_client.parser import text_string_to_metric_families
from ray_head import RayHead, ray_head

from cluster import read_output
from controller.registry.publish import publish
from runtime.store import ModelStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

VEDETTE = Path(sys.executable).with_name("vedette")
ROWS = 400
BAD_ROW = 7
SHARDS = 20
PATIENCE = 120.0  # seconds


@pytest.fixture(scope="module")
def ray() -> Iterator[RayHead]:
    with ray_head() as head:
        yield head


class Batch:
    """The command in a directory of its own, with a home of its own."""

    def __init__(self, root: Path, home: Path, *place: str) -> None:
        self.root, self.place = root, place
        self.environment = os.environ | {"VEDETTE_HOME": str(home), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}

    def start(self, verb: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [VEDETTE, "batch", verb, *arguments, *self.place],
            cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, verb: str, *arguments: str, expect: int = 0) -> tuple[str, str]:
        process = self.start(verb, *arguments)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == expect, (out, err)
        return out, err

    def json(self, verb: str, *arguments: str) -> Any:
        return json.loads(self.run(verb, *arguments, "--json")[0])

    def submit(self, rows: str, output: str, *arguments: str) -> dict[str, Any]:
        size = str(ROWS // SHARDS)
        given = ["--input", rows, "--output", output, "--keep", "number", "--shard-rows", size, "--workers", "2"]
        return self.json("submit", *given, *arguments)

    def wait(self, job: str, state: str = "succeeded") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.json("status", job)
            assert found["state"] in {"queued", "running", state}, found
            return found if found["state"] == state else None

        return wait_for(f"{job} to be {state}", look, PATIENCE)


def write_inputs(root: Path) -> None:
    """Write quick rows, and slow ones: larger pictures."""
    for name, side in (("rows", 12), ("slow", 2000)):
        (root / name).mkdir()
        write_rows(root / name / "0.parquet", ROWS, first=0, row_group=ROWS // 4, bad={BAD_ROW: b"no image"}, side=side)


@pytest.fixture
def batch(tmp_path: Path, home: Path, ray: RayHead) -> Batch:
    write_inputs(tmp_path)
    write_artifact(tmp_path / "model")
    return Batch(tmp_path, home, "--address", ray.dashboard)


def assert_every_row_once(out: Path) -> None:
    table = read_output(out)
    numbers = table.column("number").to_pylist()
    assert numbers == [n for n in range(ROWS) if n != BAD_ROW]
    assert table.column("label").to_pylist() == [LABELS[n % 3] for n in numbers]


def written_by(out: Path) -> Counter[str]:
    """Return how many commits each process made."""
    commits = [json.loads(path.read_bytes()) for path in out.glob("_commits/[!.]*.json")]
    return Counter(commit["ran_on"]["pid"] for commit in commits)


def test_a_job_is_submitted_followed_and_reported(batch: Batch, tmp_path: Path) -> None:
    made = batch.submit("rows", "out", "--model", "model")
    again = batch.submit("rows", "out", "--model", "model")
    assert (again["id"], again["run"]) == (made["id"], made["run"])
    log, _ = batch.run("logs", made["id"], "-f")
    assert f"{ROWS} in, {ROWS - 1} out, 1 quarantined" in log
    done = batch.wait(made["id"])
    assert done["progress"] == {"shards": SHARDS, "committed": SHARDS}
    assert_every_row_once(tmp_path / "out")
    report = batch.json("report", made["id"])
    assert report["rows"] == {"in": ROWS, "out": ROWS - 1, "quarantined": 1, "filtered": 0}
    assert report["shards"]["committed"] == SHARDS
    assert [view["id"] for view in batch.json("list")][:1] == [made["id"]]
    assert log.strip() in batch.run("logs", made["id"])[0]

    third = batch.submit("rows", "out", "--model", "model")  # a new run of the same job: there is nothing left to do
    assert third["id"] == made["id"]
    assert third["run"] != made["run"]
    batch.wait(made["id"])
    assert batch.json("report", made["id"]) == report
    assert_nothing_besides(tmp_path / "out")


def test_a_cancelled_job_keeps_what_is_committed_and_goes_on(batch: Batch, tmp_path: Path) -> None:
    job = batch.submit("slow", "out", "--model", "model", "--workers", "1")["id"]
    _, said = batch.run("submit", "--model", "model", "--input", "rows", "--output", "out", expect=1)
    assert re.search(
        f"job {job} is (queued|running) and writes {tmp_path / 'out'}; it differs in: input, options", said
    )
    wait_for("commits", lambda: written_by(tmp_path / "out"), PATIENCE)
    batch.run("cancel", job)
    batch.wait(job, "cancelled")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out/_commits").iterdir() if path.name[0] != "."}
    assert 0 < len(kept) < SHARDS
    assert batch.run("report", job, expect=1)[1].count("\n") == 1
    batch.submit("slow", "out", "--model", "model", "--workers", "1")
    batch.wait(job)
    assert_every_row_once(tmp_path / "out")
    assert all((tmp_path / "out/_commits" / name).read_bytes() == data for name, data in kept.items())


def figures(ray: RayHead, job: str) -> dict[str, float]:
    """Return the sum of each of our metrics of *job* at the node's endpoint, by its name and its third tag."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(httpx.get(ray.metrics, timeout=10).text):
        for sample in family.samples:
            if sample.labels.get("job") == job and "vedette_batch" in sample.name:
                third = [sample.labels[key] for key in ("stage", "reason", "kind") if sample.labels.get(key)]
                name = sample.name.removeprefix("ray_vedette_batch_").removesuffix("_total")
                found[" ".join([name, *third])] += sample.value
    return found


def test_prometheus_finds_the_figures_of_a_job_at_the_node(batch: Batch, ray: RayHead) -> None:
    job = batch.submit("slow", "out", "--model", "model")["id"]

    def some() -> dict[str, float] | None:
        found = figures(ray, job)
        return found if found.get("rows") and found.get("bad_rows not_an_image") else None

    seen = wait_for("figures", some, PATIENCE)
    assert seen["rows"] % (ROWS // SHARDS) == 0
    assert seen["rows"] / (ROWS // SHARDS) == seen["shards_committed"]
    assert seen["bad_rows not_an_image"] == 1
    assert 0 <= seen["queue_depth"] < SHARDS
    assert "\nray_vedette_batch_rows_total{" in httpx.get(ray.metrics, timeout=10).text  # the names of the guide
    assert all(seen[f"stage_seconds {stage}"] > 0 for stage in ("read", "decode", "infer", "write"))
    batch.run("cancel", job)


def test_a_job_that_fails_says_why_in_one_line(batch: Batch) -> None:
    job = batch.submit("rows", "out", "--model", "model", "--max-bad-rows", "0")["id"]
    reason = batch.wait(job, "failed")["reason"]
    assert reason.startswith("1 bad rows (1 not_an_image), more than --max-bad-rows 0")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "batch-0"), "knows no batch job 'batch-0'"),
        (("submit", "--model", "nothing", "--input", "rows", "--output", "out"), "no model 'nothing'"),
        (("submit", "--model", "model", "--input", "i", "--output", "o", "--priority", "1"), "give --controller"),
    ],
)
def test_what_cannot_be_is_one_line(batch: Batch, arguments: tuple[str, ...], said: str) -> None:
    process = batch.start(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in {1, 2}, out
    assert said in err
    assert err.count("\n") == 1


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, home: Path) -> None:
    batch = Batch(tmp_path, home, "--address", "http://127.0.0.1:9")
    assert "there is no job server of Ray at http://127.0.0.1:9" in batch.run("list", expect=1)[1]


@pytest.fixture
def queue(tmp_path: Path, ray: RayHead) -> Iterator[tuple[Batch, Callable[..., subprocess.Popen[str]]]]:
    """The queue of a running controller, and what starts a server of it."""
    with lab(tmp_path / "lab") as opened:
        artifact = write_artifact(tmp_path / "artifact")
        publish(ModelStore.open(opened.home / "store"), artifact.root, artifact.manifest)
        url = opened.start_controller("--batch-jobs", "1")["url"]
        write_inputs(tmp_path)
        batch = Batch(tmp_path, opened.home, "--controller", url)
        started = []

        def serve(lease: float = 60) -> subprocess.Popen[str]:
            arguments = ("--address", ray.dashboard, "--lease", str(lease), "--concurrency", "2", "--json")
            started.append(batch.start("serve", *arguments))
            assert json.loads(started[-1].stdout.readline())["event"] == "ready"
            return started[-1]

        yield batch, serve
        for process in started:
            process.kill()
            process.communicate()


def test_the_queue_runs_jobs_by_priority_one_at_a_time(queue: Any, tmp_path: Path) -> None:
    batch, serve = queue
    low = batch.submit("rows", "low", "--model", "color")["id"]
    high = batch.submit("rows", "high", "--model", "color@1", "--priority", "5")["id"]
    assert [view["state"] for view in batch.json("list")] == ["queued", "queued"]
    serve()
    done = [batch.wait(job) for job in (high, low)]
    assert done[0]["ended_at"] <= done[1]["started_at"]
    assert list(done[0]["models"]) == ["color@1"]
    assert done[0]["progress"] == {"shards": SHARDS, "committed": SHARDS}
    for name in ("low", "high"):
        assert_every_row_once(tmp_path / name)
    assert batch.json("report", "high")["rows"]["out"] == ROWS - 1
    assert f"{ROWS} in" in batch.run("logs", high, "-f")[0]


def test_a_server_that_is_killed_loses_its_lease_and_the_next_one_follows_the_same_run(
    queue: Any, tmp_path: Path
) -> None:
    batch, serve = queue
    job = batch.submit("slow", "out", "--model", "color", "--workers", "1")["id"]
    first = serve(lease=2)
    wait_for("commits", lambda: written_by(tmp_path / "out"), PATIENCE)
    run = wait_for("the run", lambda: batch.json("status", job)["run"])
    first.send_signal(signal.SIGKILL)
    wait_for("the lease to run out", lambda: batch.json("status", job)["lost"] == 1)
    serve(lease=10)
    done = batch.wait(job)
    assert done["run"] == run
    assert_every_row_once(tmp_path / "out")
    assert_nothing_besides(tmp_path / "out")


def test_a_job_of_the_queue_is_cancelled_and_a_stopped_server_gives_back(queue: Any, tmp_path: Path) -> None:
    batch, serve = queue
    job = batch.submit("slow", "out", "--model", "color", "--workers", "1")["id"]
    server = serve(lease=4)
    wait_for("commits", lambda: written_by(tmp_path / "out"), PATIENCE)
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0
    given_back = batch.json("status", job)
    assert (given_back["state"], given_back["lost"]) == ("queued", 0)
    serve(lease=4)
    wait_for("the job to run", lambda: batch.json("status", job)["state"] == "running")
    batch.run("cancel", job)
    batch.wait(job, "cancelled")
    assert len(written_by(tmp_path / "out")) > 0


def test_a_queue_on_postgresql_keeps_its_history_over_a_restart(tmp_path: Path) -> None:
    with postgres_url() as database, lab(tmp_path / "lab") as opened:
        artifact = write_artifact(tmp_path / "artifact")
        publish(ModelStore.open(opened.home / "store"), artifact.root, artifact.manifest)
        write_inputs(tmp_path)
        url = opened.start_controller("--database", database)["url"]
        batch = Batch(tmp_path, opened.home, "--controller", url)
        made = batch.submit("rows", "out", "--model", "color", "--priority", "-3")
        assert batch.submit("rows", "out", "--model", "color", "--priority", "-3") == made
        other = ("--model", "color", "--input", "slow", "--output", "out")
        assert "it differs in: input" in batch.run("submit", *other, expect=1)[1]
        assert batch.json("cancel", "out")["state"] == "cancelled"
        assert opened.stop_controller() == 0
        url = opened.start_controller("--database", database)["url"]
        (kept,) = Batch(tmp_path, opened.home, "--controller", url).json("list")
        assert (kept["id"], kept["state"], kept["priority"]) == (made["id"], "cancelled", -3)
        assert list(kept["models"]) == ["color@1"]
