"""`vedette demo` is the whole of Vedette at work; here it runs as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VEDETTE = Path(sys.executable).with_name("vedette")


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [VEDETTE, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def processes_of(root: Path) -> dict[int, str]:
    """Every process that was started for the demo in *root*: they all inherit its VEDETTE_HOME."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if f"VEDETTE_HOME={root}/".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
    return found


def wait_for_end(root: Path, seconds: float = 20) -> dict[int, str]:
    until = time.monotonic() + seconds
    while (left := processes_of(root)) and time.monotonic() < until:
        time.sleep(0.3)
    return left


def test_every_step_holds_and_nothing_is_left_running(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    process = start("--dir", root, "--json")
    out, err = process.communicate(timeout=580)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["held"]
    assert all(step["held"] for step in report["steps"])
    assert "stopped at the first wave" in report["steps"][-1]["name"]
    assert wait_for_end(root) == {}


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    process = start("--dir", root)
    until = time.monotonic() + 120
    while not (root / "agents" / "cam-3" / "state.json").exists():  # until the last agent is up
        assert time.monotonic() < until, "the agents did not come up"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.3)
    assert len(processes_of(root)) >= 4
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert wait_for_end(root) == {}


def test_an_existing_directory_is_not_touched(tmp_path: Path) -> None:
    process = start("--dir", tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert str(tmp_path) in err
