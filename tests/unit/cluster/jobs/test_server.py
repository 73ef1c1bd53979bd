"""What brings the queue's jobs to Ray, against a controller and a cluster in memory."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from color_model import write_artifact
from fleet_lab import wait_for

from cluster.errors import JobServerError
from cluster.jobs import server as module
from cluster.jobs.outputs import REPORT
from cluster.jobs.server import JobServer
from cluster.output.commit import OutputDirectory
from controller.registry.publish import publish
from runtime.errors import ApiError, UnreachableError
from runtime.protocol.jobs import JobState, JobView
from runtime.store import ModelStore

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def view(number=1, state=JobState.RUNNING, **changes):
    made = dict.fromkeys(JobView.model_fields)
    made |= {"id": f"j{number}", "state": state, "priority": 0, "models": {}, "input": "/in", "output": "/out"}
    made |= {"options": {}, "created_at": NOW, "created_by": "op", "cancelling": False, "reason": "", "lost": 0}
    return JobView(**made | changes)


class Controller:
    """Hands out *jobs*, and keeps what it is told; answers what is said of a job with *error* while there is one."""

    def __init__(self, *jobs):
        self.jobs, self.told, self.error, self.cancelling = list(jobs), [], None, False

    def post(self, path, body):
        if self.error is not None and path != "/jobs/leases":
            raise self.error
        self.told.append((path, body))
        if path == "/jobs/leases":
            return {"lease": "l1", "job": self.jobs.pop(0).model_dump(mode="json")} if self.jobs else None
        return {"cancelling": self.cancelling}

    def heard(self, word):
        return [body for path, body in self.told if path.endswith(word)]


class Cluster:
    """A cluster whose only run is in *state*."""

    address = "http://ray:8265"

    def __init__(self):
        self.state, self.submitted, self.cancelled, self.error = JobState.RUNNING, [], [], None

    def submit(self, request, models, environment=None):
        self.submitted.append((request, models.on_cluster, environment))
        return self.status("batch-1")

    def status(self, job):
        if self.error is not None:
            raise self.error
        return view(state=self.state, id=job, run=f"{job}-1", place=self.address, reason="disk full")

    def cancel(self, job):
        self.cancelled.append(job)
        self.state = JobState.CANCELLED


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "POLL", 0.01)


@pytest.fixture
def store(tmp_path):
    artifact = write_artifact(tmp_path / "artifact")
    store = ModelStore.open(tmp_path / "store")
    publish(store, artifact.root, artifact.manifest)
    return store, artifact.digest


@pytest.fixture
def serving(store, tmp_path):
    """Make a server of a controller with one job, and what it talks to."""

    def make(seconds=1.0, digest=store[1]):
        controller = Controller(view(models={"color@1": digest}, output=str(tmp_path / "out")))
        cluster = Cluster()
        made = JobServer(controller, cluster, concurrency=2, lease=seconds, store=store[0].uri, environment={"pip": []})
        return made, controller, cluster

    return make


def until(server, what, look):
    """Go on with *server* until *look* says something true."""

    def step():
        server.step()
        return look()

    return wait_for(what, step, 20)


def test_a_job_is_taken_followed_and_ended_with_its_report(serving, tmp_path):
    server, controller, cluster = serving()
    until(server, "a beat with the run", lambda: [one for one in controller.heard("/beat") if one["run"]])
    request, models, environment = cluster.submitted[0]
    assert (request.models, models, environment) == (["color@1"], ["./models/color@1"], {"pip": []})
    beat = controller.heard("/beat")[-1]
    assert (beat["lease"], beat["place"]) == ("l1", "http://ray:8265")
    OutputDirectory.open(tmp_path / "out").store.put(REPORT, b'{"rows": {"in": 3}}')
    cluster.state = JobState.SUCCEEDED
    (ending,) = until(server, "the end", lambda: controller.heard("/finish"))
    assert (ending["state"], ending["summary"]) == ("succeeded", {"rows": {"in": 3}})
    assert len(cluster.submitted) == 1


def test_a_job_that_failed_ends_with_its_reason(serving):
    server, controller, cluster = serving()
    cluster.state = JobState.FAILED
    (ending,) = until(server, "the end", lambda: controller.heard("/finish"))
    assert (ending["state"], ending["reason"]) == ("failed", "disk full")


def test_a_model_that_is_not_the_controllers_is_not_run(serving):
    server, controller, cluster = serving(digest="0" * 64)
    (ending,) = until(server, "the end", lambda: controller.heard("/finish"))
    assert ending["state"] == "failed"
    assert "serve with the --store of the controller" in ending["reason"]
    assert not cluster.submitted


def test_a_job_is_cancelled_when_the_controller_says_so(serving):
    server, controller, cluster = serving()
    controller.cancelling = True
    (ending,) = until(server, "the end", lambda: controller.heard("/finish"))
    assert ending["state"] == "cancelled"
    assert len(cluster.cancelled) == 1


def test_a_lost_lease_is_let_go_and_its_run_goes_on(serving):
    server, controller, cluster = serving()
    until(server, "the run", lambda: cluster.submitted)
    controller.error = ApiError("job j1 is held by ray-2", 409)

    until(server, "the job to be let go", lambda: not server._followed)
    assert not cluster.cancelled
    assert not controller.heard("/finish")


def test_a_controller_that_is_away_is_told_later(serving):
    server, controller, cluster = serving(seconds=60)
    until(server, "the run", lambda: cluster.submitted)
    controller.error = UnreachableError("the controller does not answer")
    cluster.state = JobState.CANCELLED
    until(server, "the end to be known", lambda: [one for one in server._followed.values() if one.ending])
    server.step()
    assert server._followed
    controller.error = None
    (ending,) = until(server, "the end", lambda: controller.heard("/finish"))
    assert ending["state"] == "cancelled"


def test_a_cluster_that_is_away_for_a_moment_fails_no_job(serving):
    server, controller, cluster = serving(seconds=60)
    until(server, "the run", lambda: cluster.submitted)
    cluster.error = JobServerError("there is no job server")
    for _ in range(20):
        server.step()
    cluster.error, cluster.state = None, JobState.CANCELLED
    (ending,) = until(server, "the end", lambda: controller.heard("/finish"))
    assert ending["state"] == "cancelled"


def test_a_server_that_stops_gives_its_jobs_back_and_stops_no_run(serving):
    server, controller, cluster = serving()
    stop = threading.Event()
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()
    wait_for("the run", lambda: cluster.submitted, 20)
    stop.set()
    thread.join(20)
    assert controller.heard("/release") == [{"lease": "l1"}]
    assert not cluster.cancelled
