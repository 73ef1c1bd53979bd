"""What the machine is: read from the system's own files, without any library that claims things."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

__all__ = ["DeviceClass", "Machine", "this_machine"]


class DeviceClass(StrEnum):
    """Machines that want the same preference among execution providers."""

    JETSON = "jetson"
    NVIDIA = "nvidia"
    INTEL = "intel"
    ARM = "arm"
    X86 = "x86"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts about this machine that decide what runs on it."""

    architecture: str  # as `uname -m` says
    model: str  # of the board or the CPU
    vendor: str  # of an x86 CPU, as CPUID says
    cpu_count: int  # that this process may use
    memory_mb: int
    cpu_flags: frozenset[str]
    nvidia_driver: str  # what the kernel module says of itself; empty without one

    @property
    def device_class(self) -> DeviceClass:
        """The first class whose test this machine passes."""
        return next(device_class for device_class, test in _CLASSES.items() if test(self))


_CLASSES: Mapping[DeviceClass, Callable[[Machine], bool]] = {  # the order matters: a Jetson is an ARM machine too
    DeviceClass.JETSON: lambda m: "jetson" in m.model.lower(),
    DeviceClass.NVIDIA: lambda m: bool(m.nvidia_driver),
    DeviceClass.ARM: lambda m: m.architecture in {"aarch64", "armv7l", "arm64"},
    DeviceClass.INTEL: lambda m: m.vendor == "GenuineIntel",
    DeviceClass.X86: lambda m: True,  # noqa: ARG005 - the last resort takes what is left
}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in ``/proc/cpuinfo``."""
    first = _read("/proc/cpuinfo").split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@cache
def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    cpu = _cpuinfo()
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        architecture=platform.machine(),
        model=_read("/proc/device-tree/model") or cpu.get("model name", "") or cpu.get("Model", ""),
        vendor=cpu.get("vendor_id", ""),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_mb=pages * page_size // 2**20,
        cpu_flags=frozenset((cpu.get("flags") or cpu.get("Features") or "").split()),
        nvidia_driver=_read("/proc/driver/nvidia/version").partition("\n")[0],
    )
