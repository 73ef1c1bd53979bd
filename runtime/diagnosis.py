"""What this machine can do: facts about it, versions, and the execution providers that passed a proof."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runtime.hardware import this_machine
from runtime.home import Home
from runtime.probe import PROBE_VARIANT, probe_root
from runtime.proof import Proof, ort_version, prove_isolated
from runtime.providers import PREFERENCE

__all__ = ["examine"]

DISTRIBUTIONS = ("vedette", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "pyarrow", "ray", "torch")
INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def examine() -> dict[str, Any]:
    """Return a report with the sections ``machine``, ``versions``, ``providers`` and ``advice``.

    Each execution provider that is preferred on a machine of this class is proven with a small model
    of our own, in a child process.
    """
    machine = this_machine()
    home = Home.from_environment().root
    existing = next(path for path in (home, *home.parents) if path.exists())
    proofs = [
        prove_isolated(probe_root(), PROBE_VARIANT, provider.name) for provider in PREFERENCE[machine.device_class]
    ]
    return {
        "machine": {
            "class": str(machine.device_class),
            "architecture": machine.architecture,
            "model": machine.model,
            "cores": machine.cpu_count,
            "memory_mb": machine.memory_mb,
            "cpu_flags": " ".join(flag for flag in INTERESTING_FLAGS if flag in machine.cpu_flags),
            "home": str(home),
            "disk_free_mb": shutil.disk_usage(existing).free // 2**20,
        },
        "versions": {"python": platform.python_version(), "onnxruntime": ort_version() or "not installed"}
        | {name: _installed(name) for name in DISTRIBUTIONS},
        "providers": [proof.model_dump() for proof in proofs],
        "advice": _advice(proofs),
    }


def _advice(proofs: list[Proof]) -> list[str]:
    if not ort_version():
        return ["ONNX Runtime is not installed: pip install 'vedette[cpu]' (or [cuda], [openvino])"]
    refused = [proof.provider for proof in proofs if not proof.passed]
    extras = {
        "CUDAExecutionProvider": "cuda",
        "TensorrtExecutionProvider": "cuda",
        "OpenVINOExecutionProvider": "openvino",
    }
    wanted = sorted({extras[name] for name in refused if name in extras})
    return [f"for more, in an environment of its own: pip install 'vedette[{extra}]'" for extra in wanted]
