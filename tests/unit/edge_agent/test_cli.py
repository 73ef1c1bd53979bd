"""The `vedette-agent` command without a broker: what it prints, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from edge_agent.cli import agent
from edge_agent.config import AgentHome
from edge_agent.status import LocalState, read_state
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Failure, Hardware, Phase, Reported

BUNDLE = Bundle(fleet="lab", device="cam1", broker="mqtt://127.0.0.1:1", username="cam1", password="hunter2")


@pytest.fixture
def place(tmp_path):
    return AgentHome(tmp_path / "agent")


@pytest.fixture
def call(place):
    def invoke(verb: str, *arguments: str):
        return CliRunner().invoke(agent, [verb, *arguments, "--home", str(place.root)], catch_exceptions=True)

    return invoke


def real(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", "from edge_agent.cli import main; main()", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture
def state(model_state):
    reported = Reported(
        device="cam1",
        boot_id="b",
        agent_version="0",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        hardware=Hardware(machine="x86_64", cpu_count=1, memory_mb=1),
        phase=Phase.FAILED,
        sequence=4,
        active=model_state(3),
        failure=Failure(code="proof", message="it saturates", sequence=4, manifest_sha256="0" * 64),
    )
    return LocalState(
        **LocalState.identity(),
        fleet="lab",
        broker=BUNDLE.broker,
        connected=True,
        restarts=2,
        last_death="exit code -11",
        waiting=7,
        reported=reported,
    )


def test_enrolment_says_what_it_did_and_no_password(call, place, tmp_path):
    BUNDLE.write(tmp_path / "bundle.json")
    done = call("enroll", str(tmp_path / "bundle.json"), "--json")
    assert json.loads(done.output) == {
        "device": "cam1",
        "fleet": "lab",
        "broker": "mqtt://127.0.0.1:1",
        "home": str(place.root),
    }
    assert "hunter2" not in done.output
    assert place.load_bundle() == BUNDLE


def test_status_of_an_agent_that_runs(call, place, state):
    place.create()
    state.write(place.state)
    document = json.loads(call("status", "--json").output)
    assert (document["running"], document["reported"]["active"]["version"]) == (True, 3)
    text = call("status").output
    for part in ("runs (process", "tiny@3, fp32", "proof: it saturates", "2, last: exit code -11", "7 messages"):
        assert part in text


def test_status_of_an_agent_that_is_gone(call, place, state):
    place.create()
    state.model_copy(update={"started": state.started - 1000}).write(place.state)  # another process with that id
    assert json.loads(call("status", "--json").output)["running"] is False
    assert "does not run" in call("status").output


def test_a_state_file_that_cannot_be_read_is_none(place):
    place.create()
    assert read_state(place.state) is None
    place.state.write_text("{")
    assert read_state(place.state) is None


def test_the_doctor_proves_the_cpu_and_says_what_the_broker_lacks(call, place):
    place.create()
    BUNDLE.write(place.bundle)
    report = json.loads(call("doctor", "--json").output)
    assert report["agent"]["enrolled"] is True
    assert report["broker"]["url"] == BUNDLE.broker
    assert report["broker"]["reachable"] is False
    proven = {proof["provider"] for proof in report["providers"] if proof["passed"]}
    assert "CPUExecutionProvider" in proven
    assert report["machine"]["cores"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("run", "--home", "{home}"), 1, "not enrolled"),
        (("status", "--home", "{home}"), 1, "not enrolled"),
        (("enroll", "{home}/no.json", "--home", "{home}"), 2, "does not exist"),
        (("enroll", "{bad}", "--home", "{home}"), 1, "enrolment bundle is not valid"),
        (("run", "--fps", "0"), 2, "--fps"),
        (("fly",), 2, "fly"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(tmp_path, arguments, code, named):
    (tmp_path / "bad.json").write_text("{}")
    places = {"home": str(tmp_path / "home"), "bad": str(tmp_path / "bad.json")}
    done = real(*(argument.format(**places) for argument in arguments))
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (code, 1, "")
    assert done.stderr.startswith("vedette-agent: error: ")
    assert named in done.stderr
