"""Which machine is which, from the files that such machines have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from runtime.hardware import Basics, DeviceClass, Machine, Part, examine, this_machine


class Files:
    """The files of some machine, and what its `sysctl` says."""

    def __init__(self, texts: Mapping[str, str], controls: Mapping[str, str] | None = None) -> None:
        self._texts, self._controls = texts, controls or {}

    def text(self, path: str) -> str:
        return self._texts.get(path, "").strip("\0\n ")

    def names(self, path: str) -> Sequence[str]:
        below = (name.removeprefix(f"{path}/") for name in self._texts if name.startswith(f"{path}/"))
        return sorted({name.partition("/")[0] for name in below})

    def control(self, name: str) -> str:
        return self._controls.get(name, "")


def read(texts: Mapping[str, str], controls: Mapping[str, str] | None = None, **basics: Any) -> Machine:
    plain: dict[str, Any] = {
        "system": "Linux",
        "release": "6.12.47",
        "architecture": "x86_64",
        "processor": "",
        "cpu_count": 4,
        "memory_mb": 8000,
    }
    return examine(Basics(**plain | basics), Files(texts, controls))


def x86(vendor: str, model: str, flags: str, *, threads: int = 4, cores: int = 2) -> dict[str, str]:
    blocks = [
        f"processor\t: {thread}\nvendor_id\t: {vendor}\nmodel name\t: {model}\nphysical id\t: 0\n"
        f"core id\t\t: {thread % cores}\nflags\t\t: {flags}\n"
        for thread in range(threads)
    ]
    return {"/proc/cpuinfo": "\n".join(blocks)}


def pci(path: str, vendor: str) -> dict[str, str]:
    return {f"{path}/device/vendor": f"{vendor}\n"}


XEON = x86("GenuineIntel", "Intel(R) Xeon(R) Platinum 8488C", "fpu avx2 avx512f avx512_vnni amx_int8")
CORE_ULTRA = (
    x86("GenuineIntel", "Intel(R) Core(TM) Ultra 7 155H", "fpu avx2 avx_vnni")
    | pci("/sys/class/drm/card1", "0x8086")
    | pci("/sys/class/drm/renderD128", "0x8086")
    | {"/sys/class/drm/card1-eDP-1/status": "connected\n"}
    | pci("/sys/class/accel/accel0", "0x8086")
)
RYZEN_AI = (
    x86("AuthenticAMD", "AMD Ryzen AI 9 HX 370 w/ Radeon 890M", "fpu avx2 avx512_vnni")
    | pci("/sys/class/drm/card0", "0x1002")
    | pci("/sys/class/accel/accel0", "0x1022")
)
RADEON = (
    x86("AuthenticAMD", "AMD EPYC 9354 32-Core Processor", "fpu avx2")
    | pci("/sys/class/drm/card0", "0x1a03")  # the server's own screen
    | pci("/sys/class/drm/card1", "0x1002")
    | {"/sys/module/amdgpu/version": "6.10.5\n"}
)
H200 = x86("GenuineIntel", "INTEL(R) XEON(R) PLATINUM 8570", "fpu avx2 avx512_vnni") | {
    "/proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
        "GCC version:  gcc version 13.3.0\n"
    )
}
NOUVEAU = x86("AuthenticAMD", "AMD Ryzen 7 5800X 8-Core Processor", "fpu avx2") | pci("/sys/class/drm/card0", "0x10de")
WSL = x86("AuthenticAMD", "AMD Ryzen 9 7950X", "fpu avx2") | {"/usr/lib/wsl/lib/libcuda.so.1": ""}
VIRTUAL = x86("AuthenticAMD", "AMD EPYC Processor", "fpu avx2") | pci("/sys/class/drm/card0", "0x1af4")
ARM_BLOCK = "processor\t: {0}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd {1}\nCPU implementer\t: 0x41\n"
PI_5 = {
    "/proc/cpuinfo": "\n".join(ARM_BLOCK.format(core, "crc32 asimdhp asimddp") for core in range(4))
    + "\nRevision\t: d04170\nSerial\t\t: 0\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "/sys/class/drm/card0/device/uevent": "DRIVER=vc4-drm\n",
}
PI_2 = {
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv7 Processor rev 5 (v7l)\nFeatures\t: half thumb neon vfpv4\n"
    "\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 2 Model B Rev 1.1\n"
}
ORIN = {
    "/proc/cpuinfo": "\n".join(ARM_BLOCK.format(core, "asimdhp asimddp") for core in range(6)),
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
}
RB3 = {
    "/proc/cpuinfo": "\n".join(ARM_BLOCK.format(core, "asimddp i8mm") for core in range(8)),
    "/proc/device-tree/model": "Qualcomm Technologies, Inc. Robotics RB3gen2\0",
    "/proc/device-tree/compatible": "qcom,qcs6490-rb3gen2\0qcom,qcm6490\0",
}
GRAVITON = {"/proc/cpuinfo": "\n".join(ARM_BLOCK.format(core, "asimddp i8mm bf16 sve") for core in range(4))}


@pytest.mark.parametrize(
    ("files", "basics", "classes", "parts"),
    [
        (XEON, {}, ["intel", "x86"], []),
        (CORE_ULTRA, {}, ["intel", "x86"], [Part.GPU, Part.INTEL_GPU, Part.INTEL_NPU]),
        (RYZEN_AI, {}, ["amd", "x86"], [Part.GPU, Part.AMD_GPU, Part.AMD_NPU]),
        (RADEON, {}, ["amd", "x86"], [Part.GPU, Part.AMD_GPU]),
        (H200, {}, ["nvidia", "intel", "x86"], [Part.GPU, Part.NVIDIA_GPU]),
        (NOUVEAU, {}, ["nvidia", "x86"], [Part.GPU, Part.NVIDIA_GPU]),
        (WSL, {}, ["nvidia", "x86"], [Part.GPU, Part.NVIDIA_GPU]),
        (VIRTUAL, {}, ["x86"], []),
        (PI_5, {"architecture": "aarch64"}, ["raspberry-pi", "arm"], []),
        (PI_2, {"architecture": "armv7l"}, ["raspberry-pi", "arm"], []),
        (ORIN, {"architecture": "aarch64"}, ["jetson", "nvidia", "arm"], [Part.GPU, Part.NVIDIA_GPU]),
        (RB3, {"architecture": "aarch64"}, ["qualcomm", "arm"], [Part.QUALCOMM_NPU]),
        (GRAVITON, {"architecture": "aarch64"}, ["arm"], []),
        ({}, {"architecture": "riscv64"}, ["x86"], []),
        (
            {},
            {
                "system": "Windows",
                "architecture": "ARM64",
                "processor": "ARMv8 (64-bit) Family 8 Model 1 Revision 201, Qualcomm Technologies Inc",
            },
            ["qualcomm", "windows", "arm"],
            [Part.GPU, Part.QUALCOMM_NPU],
        ),
        (
            {},
            {
                "system": "Windows",
                "architecture": "AMD64",
                "processor": "Intel64 Family 6 Model 170 Stepping 4, GenuineIntel",
            },
            ["intel", "windows", "x86"],
            [Part.GPU],
        ),
    ],
    ids=[
        *("xeon", "core-ultra", "ryzen-ai", "radeon", "h200", "nouveau", "wsl", "virtual", "pi-5", "pi-2", "orin"),
        *("rb3", "graviton", "riscv", "windows-arm", "windows-intel"),
    ],
)
def test_a_machine_is_of_the_classes_of_its_parts(
    files: Mapping[str, str], basics: dict[str, Any], classes: list[str], parts: list[Part]
) -> None:
    found = read(files, **basics)
    assert list(found.device_classes) == [DeviceClass(name) for name in classes]
    assert found.device_class == classes[0]
    assert found.parts == {Part.CPU, *parts}


def test_a_mac_is_read_through_sysctl() -> None:
    controls = {
        "machdep.cpu.brand_string": "Apple M2",
        "hw.physicalcpu": "8",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_I8MM": "1",
        "hw.optional.arm.FEAT_BF16": "0",
    }
    found = read({}, controls, system="Darwin", architecture="arm64", release="25.1.0")
    assert found.device_classes == (DeviceClass.APPLE, DeviceClass.ARM)
    assert (found.model, found.cores) == ("Apple M2", 8)
    assert found.cpu_flags == {"asimddp", "i8mm"}
    assert Part.APPLE_SILICON in found.parts


def test_the_board_is_named_before_the_processor() -> None:
    assert read(PI_5, architecture="aarch64").model == "Raspberry Pi 5 Model B Rev 1.0"
    assert read(PI_2, architecture="armv7l").model == "Raspberry Pi 2 Model B Rev 1.1"
    assert read(XEON).model == "Intel(R) Xeon(R) Platinum 8488C"


def test_flags_vendor_and_cores_come_from_cpuinfo() -> None:
    found = read(XEON)
    assert found.cpu_flags == {"fpu", "avx2", "avx512f", "avx512_vnni", "amx_int8"}
    assert (found.vendor, found.cpu_count, found.cores) == ("GenuineIntel", 4, 2)
    assert {"asimddp", "i8mm"} <= read(RB3, architecture="aarch64").cpu_flags
    assert read(RB3, architecture="aarch64").cores == 8
    assert read({}).cores == 0


@pytest.mark.parametrize(
    ("files", "driver", "drivers"),
    [
        (XEON, "", ()),
        (CORE_ULTRA, "", ("Linux 6.12.47",)),
        (RADEON, "", ("amdgpu 6.10.5", "Linux 6.12.47")),
        (
            H200,
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
            ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build", "Linux 6.12.47"),
        ),
        (NOUVEAU, "", ("Linux 6.12.47",)),
        (
            ORIN,
            "R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
            ("R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "Linux 6.12.47"),
        ),
    ],
    ids=["xeon", "core-ultra", "radeon", "h200", "nouveau", "orin"],
)
def test_drivers_are_those_of_accelerators(files: Mapping[str, str], driver: str, drivers: tuple[str, ...]) -> None:
    found = read(files)
    assert found.nvidia_driver == driver
    assert found.drivers == drivers


def test_this_machine_has_facts() -> None:
    found = this_machine()
    assert found.cpu_count >= 1
    assert found.memory_mb > 100
    assert found.architecture
    assert found.device_class in DeviceClass
    assert Part.CPU in found.parts
