"""The table of preferences, names of execution providers, and which machine is of which class."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import onnxruntime
import pytest

from runtime import providers
from runtime.errors import UsageError
from runtime.hardware import DeviceClass, Machine, this_machine
from runtime.providers import ALIASES, CPU, PREFERENCE, candidates, canonical, claimed, options_of


def machine(**facts: Any) -> Machine:
    plain: dict[str, Any] = {
        "architecture": "x86_64",
        "model": "",
        "vendor": "AuthenticAMD",
        "cpu_count": 4,
        "memory_mb": 8000,
        "cpu_flags": frozenset(),
        "nvidia_driver": "",
    }
    return Machine(**plain | facts)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"architecture": "aarch64", "model": "NVIDIA Jetson Orin Nano", "nvidia_driver": "540"}, DeviceClass.JETSON),
        ({"nvidia_driver": "NVRM version: 580.95"}, DeviceClass.NVIDIA),
        ({"architecture": "aarch64", "nvidia_driver": "580"}, DeviceClass.NVIDIA),  # Grace Hopper
        ({"architecture": "aarch64", "model": "Raspberry Pi 5 Model B Rev 1.0", "vendor": ""}, DeviceClass.ARM),
        ({"architecture": "armv7l", "vendor": ""}, DeviceClass.ARM),
        ({"vendor": "GenuineIntel"}, DeviceClass.INTEL),
        ({}, DeviceClass.X86),
        ({"architecture": "riscv64", "vendor": ""}, DeviceClass.X86),
    ],
)
def test_machines_have_the_class_of_their_best_part(facts: dict[str, Any], expected: DeviceClass) -> None:
    assert machine(**facts).device_class is expected


def test_this_machine_has_facts() -> None:
    found = this_machine()
    assert found.cpu_count >= 1
    assert found.memory_mb > 100
    assert found.architecture
    assert found.device_class in DeviceClass


def test_every_class_of_device_has_a_row_that_ends_with_the_cpu() -> None:
    assert set(PREFERENCE) == set(DeviceClass)
    for row in PREFERENCE.values():
        names = [provider.name for provider in row]
        assert names[-1] == CPU.name
        assert len(names) == len(set(names))


def test_every_provider_is_one_that_onnx_runtime_knows_and_has_an_alias() -> None:
    known = set(onnxruntime.get_all_providers())
    preferred = {provider.name for row in PREFERENCE.values() for provider in row}
    assert preferred <= known
    assert preferred == set(ALIASES.values())
    assert all(alias == alias.lower() for alias in ALIASES)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_and_the_full_name_mean_the_same(alias: str, name: str) -> None:
    assert canonical(alias) == canonical(alias.upper()) == canonical(name) == name


@pytest.mark.parametrize("name", ["", "gpu", "auto", "cpuexecutionprovider", "DmlExecutionProvider2"])
def test_an_unknown_provider_is_a_wrong_call_that_names_the_known(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name!r} is not known; expected auto, cpu, cuda, tensorrt, openvino"):
        canonical(name)


def test_candidates_are_what_is_claimed_in_the_order_of_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "this_machine", lambda: machine(nvidia_driver="580"))
    everything = [
        "CPUExecutionProvider",
        "AzureExecutionProvider",
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
    ]
    assert candidates(everything) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert candidates(["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    assert options_of("TensorrtExecutionProvider") == {"trt_engine_cache_enable": "1"}
    assert options_of("OpenVINOExecutionProvider") == {}


def test_the_cpu_is_a_candidate_here() -> None:
    assert CPU.name in claimed()
    assert candidates()[-1] == CPU.name


@pytest.mark.parametrize("module", ["cli", "commands", "diagnosis", "manifest", "proof", "providers", "store"])
def test_what_the_daemon_imports_stays_light(module: str) -> None:
    code = f"import sys, runtime.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"numpy", "onnxruntime", "cv2", "PIL", "pyarrow", "obstore"} & set(loaded.split())
