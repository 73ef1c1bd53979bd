"""What the agent says to systemd, and the unit that systemd runs it by."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from edge_agent.systemd import Notifier

UNIT = Path(__file__).parents[3] / "infra" / "systemd" / "vedette-agent.service"


@pytest.fixture
def listener(tmp_path):
    """The other end of NOTIFY_SOCKET: a function that returns what came."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(2)

        def received(count: int) -> list[str]:
            return [end.recv(1000).decode() for _ in range(count)]

        received.path = str(tmp_path / "notify")
        yield received


def test_systemd_hears_what_happens(listener):
    notifier = Notifier({"NOTIFY_SOCKET": listener.path})
    notifier.ready()
    notifier.status("serving tiny@1")
    notifier.feed_watchdog()
    notifier.stopping()
    assert listener(4) == ["READY=1", "STATUS=serving tiny@1", "WATCHDOG=1", "STOPPING=1"]


def test_an_abstract_socket_works_too():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0vedette-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@vedette-test-{os.getpid()}"}).ready()
        assert end.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(tmp_path):
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_interval_if_it_is_ours(environment, interval):
    assert Notifier(environment).watchdog_interval == interval


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_unit_is_one_that_systemd_takes(tmp_path):
    unit = tmp_path / UNIT.name
    program = shutil.which("true")
    unit.write_text(UNIT.read_text().replace("/opt/vedette/bin/vedette-agent", program))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_unit_is_hardened():
    """Exposure below 2.5 of 10; a service without any hardening has 9.6."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    assert done.returncode == 0, done.stdout


def test_the_unit_notifies_and_has_a_watchdog():
    lines = UNIT.read_text().splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "ExecStart=/opt/vedette/bin/vedette-agent run $VEDETTE_AGENT_OPTIONS" in lines
