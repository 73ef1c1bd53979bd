"""The table of preferences, names of execution providers, and where they come from."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import onnxruntime
import pytest
import structlog

from runtime.errors import ProviderError, UsageError
from runtime.hardware import DeviceClass, Machine, Part, this_machine
from runtime.providers import (
    ALIASES,
    CPU,
    LEGACY,
    PREFERENCE,
    PROVIDERS,
    canonical,
    claimed,
    find,
    flavours,
    is_installed,
    lookup,
    origin,
    origin_of,
    preferences,
    resolve,
)


def machine(**facts: Any) -> Machine:
    plain: dict[str, Any] = {
        "architecture": "x86_64",
        "model": "",
        "vendor": "AuthenticAMD",
        "cpu_count": 4,
        "memory_mb": 8000,
        "cpu_flags": frozenset(),
    }
    return Machine(**plain | facts)


@pytest.fixture
def with_parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let this machine have other parts."""

    def become(*parts: Part) -> None:
        monkeypatch.setattr(lookup, "this_machine", lambda: machine(parts=frozenset({Part.CPU, *parts})))

    return become


def names(found: Any) -> list[str]:
    return [provider.reference for provider in found]


def test_every_class_of_device_has_a_row_that_ends_with_the_cpu() -> None:
    assert set(PREFERENCE) == set(DeviceClass)
    for row in PREFERENCE.values():
        references = names(row)
        assert references[-1] == CPU.reference
        assert len(references) == len(set(references))


def test_every_provider_is_known_has_an_alias_and_says_how_to_install_it() -> None:
    plugged = {provider.name for provider in PROVIDERS if provider.plugins}
    preferred = {provider.name for row in PREFERENCE.values() for provider in row}
    assert preferred <= set(onnxruntime.get_all_providers()) | plugged
    assert preferred == set(ALIASES.values()) == {provider.name for provider in PROVIDERS}
    assert all(provider.install for provider in PROVIDERS)
    assert all(alias == alias.lower() for alias in ALIASES)


def test_what_is_legacy_is_named_so() -> None:
    assert {"DmlExecutionProvider", "NnapiExecutionProvider", "JsExecutionProvider"} <= set(LEGACY)
    assert find("directml").legacy
    with pytest.raises(UsageError, match="NnapiExecutionProvider is legacy and not run: Android deprecated NNAPI"):
        canonical("NnapiExecutionProvider")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ["OpenVINOExecutionProvider:CPU", "CPUExecutionProvider"]),
        (
            {"vendor": "GenuineIntel", "parts": frozenset({Part.CPU, Part.GPU, Part.INTEL_GPU, Part.INTEL_NPU})},
            [
                "OpenVINOExecutionProvider:GPU",
                "OpenVINOExecutionProvider:NPU",
                "OpenVINOExecutionProvider:CPU",
                "WebGpuExecutionProvider",
                "CPUExecutionProvider",
            ],
        ),
        (
            {"parts": frozenset({Part.CPU, Part.GPU, Part.NVIDIA_GPU})},
            [
                "TensorrtExecutionProvider",
                "NvTensorRTRTXExecutionProvider",
                "CUDAExecutionProvider",
                "WebGpuExecutionProvider",
                "OpenVINOExecutionProvider:CPU",
                "CPUExecutionProvider",
            ],
        ),
        (
            {"parts": frozenset({Part.CPU, Part.GPU, Part.AMD_GPU})},
            [
                "MIGraphXExecutionProvider",
                "WebGpuExecutionProvider",
                "OpenVINOExecutionProvider:CPU",
                "CPUExecutionProvider",
            ],
        ),
        (
            {"architecture": "aarch64", "vendor": "", "model": "Raspberry Pi 5 Model B Rev 1.0"},
            ["XnnpackExecutionProvider", "CPUExecutionProvider"],
        ),
        (
            {"system": "Windows", "parts": frozenset({Part.CPU, Part.GPU})},
            [
                "WebGpuExecutionProvider",
                "DmlExecutionProvider",
                "OpenVINOExecutionProvider:CPU",
                "CPUExecutionProvider",
            ],
        ),
        (
            {"system": "Darwin", "architecture": "arm64", "parts": frozenset({Part.CPU, Part.GPU, Part.APPLE_SILICON})},
            ["CoreMLExecutionProvider", "WebGpuExecutionProvider", "XnnpackExecutionProvider", "CPUExecutionProvider"],
        ),
    ],
    ids=["x86", "intel", "nvidia", "amd", "raspberry-pi", "windows", "apple"],
)
def test_a_machine_prefers_what_it_has_the_hardware_for(facts: dict[str, Any], expected: list[str]) -> None:
    assert names(preferences(machine(**facts))) == expected


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_and_the_full_name_mean_the_same(alias: str, name: str) -> None:
    assert canonical(alias) == canonical(alias.upper()) == canonical(name) == name


@pytest.mark.parametrize("name", ["", "gpu", "auto", "cpuexecutionprovider", "DmlExecutionProvider2"])
def test_an_unknown_provider_is_a_wrong_call_that_names_the_known(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name!r} is not known; expected auto, cpu, cuda, tensorrt, openvino"):
        canonical(name)


@pytest.mark.parametrize("name", ["rocm", "ROCm", "ROCMExecutionProvider"])
def test_rocm_means_migraphx_with_a_warning_that_says_why(name: str) -> None:
    with structlog.testing.capture_logs() as logged:
        assert canonical(name) == "MIGraphXExecutionProvider"
    (warning,) = logged
    assert warning["log_level"] == "warning"
    assert (warning["asked"], warning["used"]) == (name, "MIGraphXExecutionProvider")
    assert "removed the ROCm execution provider in 1.23" in warning["reason"]


def test_a_provider_of_several_devices_means_those_that_are_here(with_parts: Any) -> None:
    with_parts()
    assert names(resolve("openvino")) == ["OpenVINOExecutionProvider:CPU"]
    with_parts(Part.GPU, Part.INTEL_GPU, Part.INTEL_NPU)
    assert names(resolve("openvino")) == [f"OpenVINOExecutionProvider:{device}" for device in ("GPU", "NPU", "CPU")]
    assert find("openvino").device == "GPU"
    with_parts()
    assert names(resolve("cuda")) == ["CUDAExecutionProvider"]  # none is here: tried, to say what it says


def test_a_device_can_be_named_and_must_be_one(with_parts: Any) -> None:
    with_parts()
    assert names(resolve("openvino:npu")) == ["OpenVINOExecutionProvider:NPU"]
    assert names(resolve("OpenVINOExecutionProvider:GPU")) == ["OpenVINOExecutionProvider:GPU"]
    with pytest.raises(UsageError, match="OpenVINOExecutionProvider has no device 'tpu'; it has GPU, NPU, CPU"):
        resolve("openvino:tpu")
    with pytest.raises(UsageError, match="CUDAExecutionProvider has no device '0'; it has none to choose from"):
        resolve("cuda:0")


def test_every_reference_leads_back_to_its_provider() -> None:
    for provider in PROVIDERS:
        assert find(provider.reference) == provider


def test_the_cpu_is_claimed_and_installed_here() -> None:
    assert CPU.name in claimed()
    assert is_installed(CPU)
    assert origin_of(CPU).description == f"built into {flavours()[0]}"


def test_what_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "claimed", lambda: (CPU.name,))
    monkeypatch.setattr(origin, "find_spec", lambda _: None)
    for provider in PROVIDERS[:-1]:
        assert not is_installed(provider)
        with pytest.raises(ProviderError, match=f"{provider.name} is not installed: .*to install it: ") as caught:
            origin_of(provider)
        assert provider.install in str(caught.value)


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(distribution: str) -> str:
        if distribution not in versions:
            raise origin.PackageNotFoundError(distribution)
        return versions[distribution]

    monkeypatch.setattr(origin, "version", version)


def test_flavours_exclude_each_other_and_plugins_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1", "onnxruntime-qnn": "2.7.0"})
    assert flavours() == ("onnxruntime 1.32.0", "onnxruntime-gpu 1.31.1")
    installed(monkeypatch, {"onnxruntime-qnn": "1.21.0"})
    assert flavours() == ("onnxruntime-qnn 1.21.0",)  # brought ONNX Runtime itself then
    installed(monkeypatch, {})
    assert flavours() == ()


@pytest.mark.parametrize(
    "module", ["choice", "cli", "commands.doctor", "diagnosis", "manifest", "proof", "providers", "session_options"]
)
def test_what_the_daemon_imports_stays_light(module: str) -> None:
    code = f"import sys, runtime.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"numpy", "onnxruntime", "cv2", "PIL", "pyarrow", "obstore"} & set(loaded.split())


def test_this_machine_prefers_something_that_is_installed() -> None:
    assert any(is_installed(provider) for provider in preferences(this_machine()))
