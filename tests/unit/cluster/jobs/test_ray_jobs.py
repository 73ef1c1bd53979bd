"""The rules for runs, against a job server in memory."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cluster.errors import JobServerError, OtherJobError
from cluster.jobs.luggage import Models
from cluster.jobs.ray_jobs import METADATA, RayJobs
from cluster.jobs.request import job_id
from runtime.errors import UsageError
from runtime.protocol.jobs import JobRequest, JobState

PINNED = Models(references={"color@1": "a" * 64}, store="s3://models")


class Server:
    """Ray's job server: refuses a name twice, and ends runs on command."""

    def __init__(self):
        self.runs = {}
        self.between = lambda: None

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        self.between()
        if submission_id in self.runs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists. Please use another.")
        self.runs[submission_id] = SimpleNamespace(
            submission_id=submission_id, metadata=metadata, status=SimpleNamespace(value="RUNNING"), message="",
            start_time=1000 + len(self.runs), end_time=None, entrypoint=entrypoint, runtime_env=runtime_env,
        )  # fmt: skip

    def list_jobs(self):
        other = SimpleNamespace(metadata={}, submission_id="raysubmit_1")
        return [other, *reversed(self.runs.values())]

    def stop_job(self, run):
        self.runs[run].status.value = "STOPPED"


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def jobs(server):
    made = RayJobs.__new__(RayJobs)
    made.address, made._client = "http://ray:8265", server
    return made


@pytest.fixture
def request_(tmp_path):
    return JobRequest(models=["color@1"], input="/in", output=str(tmp_path / "out"), options={"keep": ["a"]})


def test_a_job_that_has_not_ended_is_found_and_not_started_again(jobs, server, request_):
    first = jobs.submit(request_, PINNED)
    assert jobs.submit(request_, PINNED) == first
    assert list(server.runs) == [f"{job_id(request_.output)}-1"]
    assert "--store=s3://models" in server.runs[first.run].entrypoint


def test_a_job_that_ended_gets_a_new_run_and_is_the_newest(jobs, server, request_):
    for number in range(1, 12):
        view = jobs.submit(request_, PINNED)
        assert view.run == f"{view.id}-{number}"
        server.runs[view.run].status.value = "FAILED"
        server.runs[view.run].message = f"vedette batch run: error: disk full {number}"
    (listed,) = jobs.listing()
    assert (listed.state, listed.run, listed.reason) == (JobState.FAILED, f"{listed.id}-11", "disk full 11")


def test_another_job_for_the_output_is_refused_while_one_writes_it(jobs, request_):
    jobs.submit(request_, PINNED)
    other = request_.model_copy(update={"input": "/other", "options": {}})
    with pytest.raises(OtherJobError, match=r"is running and writes .*; it differs in: input, options"):
        jobs.submit(other, PINNED)


def test_another_model_of_the_same_name_is_another_job(jobs, request_):
    assert jobs.submit(request_, PINNED).models == {"color@1": "a" * 64}
    with pytest.raises(OtherJobError, match="it differs in: models"):
        jobs.submit(request_, Models(references={"color@1": "b" * 64}, store="s3://models"))


def test_of_two_who_submit_at_once_one_starts_the_run(jobs, server, request_):
    def faster():
        server.between = lambda: None
        jobs.submit(request_, PINNED)

    server.between = faster
    assert jobs.submit(request_, PINNED).run == f"{job_id(request_.output)}-1"
    assert len(server.runs) == 1


def test_a_cancelled_job_is_so_and_an_ended_one_stays(jobs, request_):
    job = jobs.submit(request_, PINNED).id
    assert jobs.cancel(job).state is JobState.CANCELLED
    assert jobs.cancel(job).state is JobState.CANCELLED


def test_a_job_is_known_by_its_id_and_its_output_and_an_unknown_one_is_told_which_there_are(jobs, request_):
    known = jobs.submit(request_, PINNED).id
    assert jobs.status(request_.output).id == known
    with pytest.raises(JobServerError, match=f"knows no batch job 'x'; it knows: {known}"):
        jobs.status("x")


def test_what_the_server_refuses_is_one_line(jobs, server, request_):
    def refuse():
        raise RuntimeError("Request failed\nwith status code 500")

    server.between = refuse
    with pytest.raises(JobServerError, match="at http://ray:8265: Request failed with status code 500"):
        jobs.submit(request_, PINNED)


def test_a_run_says_what_it_was_asked_for(jobs, server, request_):
    view = jobs.submit(request_, PINNED, {"env_vars": {"A": "1"}})
    run = server.runs[view.run]
    assert json.loads(run.metadata[METADATA])["options"] == {"keep": ["a"]}
    assert run.runtime_env["env_vars"]["A"] == "1"
    assert [place.rpartition("/")[2] for place in run.runtime_env["py_modules"]] == ["cluster", "runtime"]


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379", "http://"])
def test_what_is_no_dashboard_is_a_wrong_call(address):
    with pytest.raises(UsageError, match=r"--address .* expected the URL of its dashboard"):
        RayJobs(address)
