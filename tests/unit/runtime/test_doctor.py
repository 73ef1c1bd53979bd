"""`vedette doctor`: what is proven, what is not and why, and what is broken."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import diagnosis
from runtime.cli import run_command, vedette
from runtime.hardware import Machine, Part, this_machine
from runtime.proof import Proof

Doctor = Callable[..., tuple[int, str, str]]
CPU = "CPUExecutionProvider"


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command; return its exit code, and what it printed to stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_command(vedette, "vedette", ["doctor", *arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be on a machine with other facts."""

    def become(**facts: Any) -> None:
        changed: Machine = dataclasses.replace(this_machine(), **facts)
        monkeypatch.setattr(diagnosis, "this_machine", lambda: changed)

    return become


def test_it_proves_what_this_machine_can_do(doctor: Doctor, home: Path) -> None:
    code, out, err = doctor("--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report) == {"machine", "versions", "providers", "problems", "advice"}
    assert report["machine"]["home"] == str(home)
    assert report["machine"]["disk_free_mb"] > 0
    assert report["machine"]["threads"] >= 1
    assert "CPU" in report["machine"]["parts"]
    assert report["versions"]["onnxruntime"].startswith("onnxruntime")
    assert report["problems"] == []
    (cpu,) = [one for one in report["providers"] if one["provider"] == CPU]
    assert (cpu["status"], cpu["passed"], cpu["node_share"]) == ("proven", True, 1.0)
    assert cpu["latency_ms"] > 0
    assert cpu["build_ms"] > 0
    assert all(one["reason"] for one in report["providers"])
    assert {one["status"] for one in report["providers"]} <= {
        *("proven", "refused", "not installed", "no hardware", "unused")
    }


def test_what_this_class_could_use_is_listed_with_why_it_does_not_run(doctor: Doctor, on: Callable[..., None]) -> None:
    on(vendor="GenuineIntel", parts=frozenset({Part.CPU, Part.GPU, Part.INTEL_GPU}), system="Linux")
    report = json.loads(doctor("--json")[1])
    status = {f"{one['provider']}:{one['device']}": one["status"] for one in report["providers"]}
    assert status["OpenVINOExecutionProvider:GPU"] == "not installed"
    assert status["OpenVINOExecutionProvider:NPU"] == "no hardware"
    assert status["OpenVINOExecutionProvider:CPU"] == "not installed"
    assert status[f"{CPU}:"] == "proven"
    assert status["AzureExecutionProvider:"] == "unused"
    code, out, _ = doctor()
    assert code == 0
    assert "this machine shows no Intel NPU" in out
    advice = [line for line in out.splitlines() if line.startswith("for OpenVINOExecutionProvider: pip install")]
    assert len(advice) == 1  # said once for all its devices


def test_what_is_legacy_says_so_and_is_not_advised(doctor: Doctor, on: Callable[..., None]) -> None:
    on(system="Windows", parts=frozenset({Part.CPU, Part.GPU}))
    out = doctor()[1]
    (line,) = [line for line in out.splitlines() if line.startswith("DmlExecutionProvider")]
    assert "not installed (legacy)" in line
    assert "for DmlExecutionProvider" not in out
    assert "for WebGpuExecutionProvider: pip install onnxruntime-ep-webgpu" in out


def test_a_refusal_is_shown_with_its_reason(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path, variant: str, provider: str) -> Proof:
        return Proof(variant=variant, provider=provider, passed=False, reason="output differs")

    monkeypatch.setattr(diagnosis, "prove_isolated", refuse)
    (line,) = [line for line in doctor()[1].splitlines() if line.startswith(CPU)]
    assert "refused" in line
    assert line.endswith("output differs")


def test_two_flavours_at_once_are_a_problem(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "flavours", lambda: ("onnxruntime 1.32.0", "onnxruntime-gpu 1.31.1"))
    code, out, _ = doctor()
    assert code == 0
    assert "problem: several flavours of ONNX Runtime are installed at once: onnxruntime 1.32.0, onnxrun" in out
    assert "pip uninstall onnxruntime onnxruntime-gpu" in out


def test_without_onnx_runtime_it_says_what_to_install(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "flavours", lambda: ())
    report = json.loads(doctor("--json")[1])
    assert {one["status"] for one in report["providers"]} <= {"not installed", "no hardware"}
    assert report["advice"] == ["ONNX Runtime is not installed: pip install 'vedette[cpu]' (or [cuda], [openvino])"]
    assert report["versions"]["onnxruntime"] == "not installed"


def test_it_works_where_the_home_is_not_there_yet(doctor: Doctor, home: Path) -> None:
    shutil.rmtree(home)
    assert doctor("--json")[0] == 0
