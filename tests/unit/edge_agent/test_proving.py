"""Proofs from the daemon: real ones, and none that outlives the wait for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import psutil
import pytest

from edge_agent.proving import capabilities, prove, prove_providers
from runtime.probe import PROBE_VARIANT, probe_root
from runtime.proof import Proof

CPU = "CPUExecutionProvider"


def proofs_running() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "edge_agent.proving" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


async def test_the_cpu_is_proven_and_what_is_not_there_is_not(tmp_path):
    proofs = {proof.provider: proof for proof in await prove_providers(seconds=60)}
    assert proofs[CPU].passed
    have = capabilities(list(proofs.values()), tmp_path)
    assert CPU in have.providers
    assert have.ort.count(".") == 2
    assert have.disk_mb > 0
    assert have.memory_mb > 0
    absent = await prove(probe_root(), PROBE_VARIANT, "QNNExecutionProvider", seconds=60)
    assert not absent.passed


async def test_what_is_no_artifact_is_a_proof_that_failed(tmp_path):
    proof = await prove(tmp_path, "fp32", CPU, seconds=60)
    assert not proof.passed
    assert "manifest.json" in proof.reason


def test_a_device_that_proves_nothing_can_do_nothing(tmp_path):
    refused = Proof(variant="fp32", provider=CPU, passed=False, reason="no")
    assert capabilities([refused], tmp_path).providers == ()


async def test_a_cancelled_proof_leaves_no_process():
    before = {process.pid for process in proofs_running()}
    task = asyncio.create_task(prove(probe_root(), PROBE_VARIANT, CPU, seconds=60))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {process.pid for process in proofs_running()} <= before


def test_a_proof_ends_with_the_agent():
    """The parent is killed while its child waits; the child, which is bound to it, is gone at once."""
    child = "import os, sys, time; from edge_agent.lifeline import bind_to_parent; bind_to_parent(int(sys.argv[1]));"
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_whose_parent_is_gone_already_ends_at_once():
    code = "from edge_agent.lifeline import bind_to_parent; bind_to_parent(1 << 22); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
