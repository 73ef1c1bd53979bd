"""Execution providers (EPs): names, and which to try first on which machine.

Rules:
    * What ONNX Runtime lists is a claim; `runtime.proof` decides.
    * One table says what is preferred where; no code asks for an EP by name.
    * The CPU EP is the last candidate everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.errors import UsageError
from runtime.hardware import DeviceClass, this_machine

__all__ = ["ALIASES", "CPU", "PREFERENCE", "Provider", "candidates", "canonical", "claimed", "options_of"]


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider and the options that it is built with."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


CPU = Provider("CPUExecutionProvider")
TENSORRT = Provider("TensorrtExecutionProvider", {"trt_engine_cache_enable": "1"})
CUDA = Provider("CUDAExecutionProvider")
OPENVINO = Provider("OpenVINOExecutionProvider", {"device_type": "AUTO"})
OPENVINO_CPU = Provider("OpenVINOExecutionProvider", {"device_type": "CPU"})

PREFERENCE: Mapping[DeviceClass, Sequence[Provider]] = {
    DeviceClass.JETSON: (TENSORRT, CUDA, CPU),
    DeviceClass.NVIDIA: (TENSORRT, CUDA, CPU),
    DeviceClass.INTEL: (OPENVINO, CPU),
    DeviceClass.X86: (OPENVINO_CPU, CPU),
    DeviceClass.ARM: (CPU,),
}

ALIASES: Mapping[str, str] = {
    "cpu": CPU.name,
    "cuda": CUDA.name,
    "tensorrt": TENSORRT.name,
    "openvino": OPENVINO.name,
}


def canonical(name: str) -> str:
    """Return ONNX Runtime's name of the EP that *name* means: an alias, or the full name itself.

    Raises:
        UsageError: It means none.
    """
    if name.lower() in ALIASES:
        return ALIASES[name.lower()]
    if name in ALIASES.values():
        return name
    raise UsageError(f"execution provider {name!r} is not known; expected auto, {', '.join(ALIASES)} or a full name")


def options_of(name: str) -> Mapping[str, str]:
    """Return the options that the EP *name* is built with on this machine."""
    for provider in PREFERENCE[this_machine().device_class]:
        if provider.name == name:
            return provider.options
    return {}


def claimed() -> tuple[str, ...]:
    """Return the EPs that the installed ONNX Runtime claims to have; loads ONNX Runtime."""
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


def candidates(available: Collection[str] | None = None) -> list[str]:
    """Return the EPs worth a proof on this machine, most preferred first.

    Args:
        available: EPs that are claimed; asked of ONNX Runtime, which loads it, if ``None``.
    """
    available = claimed() if available is None else available
    return [provider.name for provider in PREFERENCE[this_machine().device_class] if provider.name in available]
