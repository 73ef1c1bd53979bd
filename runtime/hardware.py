"""What the machine is: read from the system's own files, without any library that claims things.

Rules:
    * `examine` is pure: what the interpreter says (`Basics`) and what the system's files say (`Files`)
      go in, a `Machine` comes out. Its tests give it the files of other machines.
    * A part (`Part`) is hardware that an execution provider needs. It is here if the kernel shows the
      device; whether a driver for inference is installed too, only a proof can tell.
    * A machine is of every class that its parts make it, the best part first: a desktop with an NVIDIA
      card and an Intel processor is NVIDIA and INTEL.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Protocol

__all__ = ["Basics", "DeviceClass", "Files", "Machine", "Part", "examine", "this_machine"]


class DeviceClass(StrEnum):
    """Machines that want the same preference among execution providers."""

    JETSON = "jetson"
    NVIDIA = "nvidia"
    AMD = "amd"  # a GPU of AMD's; a machine with their processor alone is X86
    QUALCOMM = "qualcomm"
    APPLE = "apple"
    INTEL = "intel"
    WINDOWS = "windows"
    RASPBERRY_PI = "raspberry-pi"
    ARM = "arm"
    X86 = "x86"


class Part(StrEnum):
    """Hardware that an execution provider needs."""

    CPU = "CPU"
    GPU = "GPU"  # any that draws; the makers' own parts are below
    NVIDIA_GPU = "NVIDIA GPU"
    AMD_GPU = "AMD GPU"
    INTEL_GPU = "Intel GPU"
    INTEL_NPU = "Intel NPU"
    AMD_NPU = "AMD NPU"
    QUALCOMM_NPU = "Qualcomm NPU"
    APPLE_SILICON = "Apple GPU and Neural Engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts about this machine that decide what runs on it."""

    system: str = "Linux"  # as Python's `platform.system` says
    architecture: str  # as `uname -m` says
    model: str  # of the board or the CPU
    vendor: str  # of an x86 CPU, as CPUID says
    cpu_count: int  # threads that this process may use
    cores: int = 0  # of the machine, not counting hyper-threads; 0: the system does not tell
    memory_mb: int
    cpu_flags: frozenset[str]  # as Linux names them
    parts: frozenset[Part] = frozenset({Part.CPU})
    nvidia_driver: str = ""  # what the kernel module says of itself; empty without one
    drivers: tuple[str, ...] = ()  # of accelerators, name and version; a proof holds for these only
    compatible: tuple[str, ...] = ()  # what a device tree calls the board and its chip, such as nvidia,tegra234

    @property
    def device_classes(self) -> tuple[DeviceClass, ...]:
        """Every class whose test this machine passes, the best part first; never empty."""
        return tuple(device_class for device_class, test in _CLASSES.items() if test(self))

    @property
    def device_class(self) -> DeviceClass:
        """The first of `device_classes`."""
        return self.device_classes[0]


def _is_arm(machine: Machine) -> bool:
    return machine.architecture.lower() in {"aarch64", "arm64", "armv7l", "armv6l"}


def _is_made_by(machine: Machine, vendor: str) -> bool:
    return any(name.startswith(f"{vendor},") for name in machine.compatible)


_CLASSES: Mapping[DeviceClass, Callable[[Machine], bool]] = {  # in the order of preference
    DeviceClass.JETSON: lambda m: any("tegra" in name for name in m.compatible) or "jetson" in m.model.lower(),
    DeviceClass.NVIDIA: lambda m: Part.NVIDIA_GPU in m.parts,
    DeviceClass.AMD: lambda m: Part.AMD_GPU in m.parts,
    DeviceClass.QUALCOMM: lambda m: Part.QUALCOMM_NPU in m.parts,
    DeviceClass.APPLE: lambda m: m.system == "Darwin",
    DeviceClass.INTEL: lambda m: m.vendor == "GenuineIntel" or bool(m.parts & {Part.INTEL_GPU, Part.INTEL_NPU}),
    DeviceClass.WINDOWS: lambda m: m.system == "Windows",
    DeviceClass.RASPBERRY_PI: lambda m: _is_made_by(m, "raspberrypi") or m.model.startswith("Raspberry Pi"),
    DeviceClass.ARM: _is_arm,
    DeviceClass.X86: lambda m: not _is_arm(m),  # and whatever else there is
}

# PCI vendors (pcisig.com/membership/member-companies) of what /sys/class/drm and /sys/class/accel show.
GPU_VENDORS: Mapping[str, Part] = {
    "0x10de": Part.NVIDIA_GPU,
    "0x1002": Part.AMD_GPU,
    "0x8086": Part.INTEL_GPU,
}
NPU_VENDORS: Mapping[str, Part] = {
    "0x8086": Part.INTEL_NPU,  # driver intel_vpu
    "0x1022": Part.AMD_NPU,  # driver amdxdna
    "0x17cb": Part.QUALCOMM_NPU,  # driver qaic
}

# What macOS calls the instructions of its processors (`sysctl hw.optional`), in Linux's words.
APPLE_FLAGS: Mapping[str, str] = {
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Basics:
    """What the interpreter says of the machine."""

    system: str  # `platform.system`: Linux, Darwin, Windows
    release: str  # of the kernel
    architecture: str
    processor: str  # `platform.processor`; of use on Windows only
    cpu_count: int
    memory_mb: int


class Files(Protocol):
    """The system's own word, in files or in what stands for them."""

    def text(self, path: str) -> str:
        """Return what the file *path* says, without the blanks and zeros at its ends; empty if it is not there."""

    def names(self, path: str) -> Sequence[str]:
        """Return the names in the directory *path*; none if it is not there."""

    def control(self, name: str) -> str:
        """Return the value that ``sysctl`` has for *name*; empty where there is none."""


def examine(basics: Basics, files: Files) -> Machine:
    """Return the machine that *basics* and *files* describe."""
    processors = _processors(files.text("/proc/cpuinfo"))
    first = processors[0] if processors else {}
    compatible = tuple(filter(None, files.text("/proc/device-tree/compatible").split("\0")))
    nvidia = _nvidia_driver(files)
    parts = _parts(basics, files, compatible, nvidia)
    return Machine(
        system=basics.system,
        architecture=basics.architecture,
        model=_model(basics, files, processors),
        vendor=first.get("vendor_id", "") or files.control("machdep.cpu.vendor") or _windows_vendor(basics),
        cpu_count=basics.cpu_count,
        cores=_cores(processors) or int(files.control("hw.physicalcpu") or 0),
        memory_mb=basics.memory_mb,
        cpu_flags=frozenset((first.get("flags") or first.get("Features") or "").split()) | _apple_flags(files),
        parts=parts,
        nvidia_driver=nvidia,
        drivers=_drivers(basics, files, parts, nvidia),
        compatible=compatible,
    )


def _processors(cpuinfo: str) -> list[dict[str, str]]:
    """Return the fields of each block of ``/proc/cpuinfo``: one a logical processor, on ARM one of the board last."""
    blocks = (block for block in cpuinfo.split("\n\n") if block.strip())
    pairs = ([line.partition(":") for line in block.splitlines()] for block in blocks)
    return [{name.strip(): value.strip() for name, _, value in block} for block in pairs]


def _cores(processors: Sequence[Mapping[str, str]]) -> int:
    logical = [one for one in processors if "processor" in one]
    physical = {(one.get("physical id"), one.get("core id", one["processor"])) for one in logical}
    return len(physical)


def _model(basics: Basics, files: Files, processors: Sequence[Mapping[str, str]]) -> str:
    """Return the board's name where there is one, the processor's otherwise."""
    said = [one[key] for key in ("Model", "model name") for one in processors if one.get(key)]
    board = files.text("/proc/device-tree/model")
    return board or (said[0] if said else "") or files.control("machdep.cpu.brand_string") or basics.processor


def _windows_vendor(basics: Basics) -> str:
    return next((vendor for vendor in ("GenuineIntel", "AuthenticAMD") if vendor in basics.processor), "")


def _apple_flags(files: Files) -> frozenset[str]:
    return frozenset(flag for name, flag in APPLE_FLAGS.items() if files.control(name) == "1")


def _nvidia_driver(files: Files) -> str:
    """Return the driver's own line: of the kernel module, of a Jetson's system, or of Windows below WSL."""
    module = files.text("/proc/driver/nvidia/version").partition("\n")[0]
    jetson = files.text("/etc/nv_tegra_release").partition("\n")[0].lstrip("# ")
    wsl = "WSL's libcuda.so.1" if "libcuda.so.1" in files.names("/usr/lib/wsl/lib") else ""
    return module or jetson or wsl


def _vendors(files: Files, folder: str, pattern: str) -> set[str]:
    devices = (name for name in files.names(folder) if re.fullmatch(pattern, name))
    return {files.text(f"{folder}/{name}/device/vendor").lower() for name in devices}


def _parts(basics: Basics, files: Files, compatible: Sequence[str], nvidia: str) -> frozenset[Part]:
    gpus = _vendors(files, "/sys/class/drm", r"card\d+|renderD\d+")
    npus = _vendors(files, "/sys/class/accel", r"accel\d+")
    parts = {Part.CPU}
    parts |= {GPU_VENDORS[vendor] for vendor in gpus if vendor in GPU_VENDORS}
    parts |= {NPU_VENDORS[vendor] for vendor in npus if vendor in NPU_VENDORS}
    if nvidia:
        parts.add(Part.NVIDIA_GPU)
    if any(name.startswith("qcom,") for name in compatible) or "Qualcomm" in basics.processor:
        parts.add(Part.QUALCOMM_NPU)
    if basics.system == "Darwin":
        parts.add(Part.APPLE_SILICON)
    draws = parts & {*GPU_VENDORS.values(), Part.APPLE_SILICON}
    return frozenset(parts | {Part.GPU} if draws or basics.system == "Windows" else parts)


def _drivers(basics: Basics, files: Files, parts: frozenset[Part], nvidia: str) -> tuple[str, ...]:
    """Return name and version of what drives the accelerators; the in-tree drivers have the kernel's version."""
    amdgpu = files.text("/sys/module/amdgpu/version")
    found = [nvidia, f"amdgpu {amdgpu}" if amdgpu else ""]
    if parts - {Part.CPU}:
        found.append(f"{basics.system} {basics.release}")
    return tuple(filter(None, found))


class _System:
    """The files of the machine that this process runs on."""

    def text(self, path: str) -> str:
        try:
            return Path(path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return ""

    def names(self, path: str) -> Sequence[str]:
        try:
            return sorted(entry.name for entry in Path(path).iterdir())
        except OSError:
            return ()

    def control(self, name: str) -> str:
        if platform.system() != "Darwin":
            return ""
        try:
            done = subprocess.run(
                ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip()


def _memory_mb() -> int:
    """Return the machine's memory; 0 where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (AttributeError, ValueError, OSError):
        return 0


@cache
def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    affinity = getattr(os, "sched_getaffinity", None)
    basics = Basics(
        system=platform.system(),
        release=platform.release(),
        architecture=platform.machine(),
        processor=platform.processor(),
        cpu_count=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_mb=_memory_mb(),
    )
    return examine(basics, _System())
