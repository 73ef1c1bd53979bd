"""What this machine can do: facts about it, versions, and the execution providers that passed a proof.

Rules:
    * Everything that this class of machine could use is listed, with why it does not run where it does not:
      its hardware is absent, it is not installed, or its proof was refused.
    * What the installed ONNX Runtime claims besides is listed too: a claim alone is no reason to use it.
    * Each proof is made with a small model of our own, in a child process; this process loads ONNX Runtime
      only to read its list of claims.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runtime.hardware import Machine, this_machine
from runtime.home import Home
from runtime.probe import PROBE_VARIANT, probe_root
from runtime.proof import prove_isolated
from runtime.providers import (
    LEGACY,
    PREFERENCE,
    PROVIDERS,
    Provider,
    claimed,
    flavours,
    installed_plugins,
    is_installed,
)

__all__ = ["examine"]

DISTRIBUTIONS = ("vedette", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "pyarrow", "ray", "torch")
INTERESTING_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
UNUSED = {
    "AzureExecutionProvider": "it calls a web service, and runs no model here",
}


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def examine() -> dict[str, Any]:
    """Return a report with the sections ``machine``, ``versions``, ``providers``, ``problems`` and ``advice``.

    Each of ``providers`` has the fields of a `Proof`, and ``status``: ``proven``, ``refused``,
    ``not installed``, ``no hardware`` or ``unused``.
    """
    machine = this_machine()
    has_runtime = bool(flavours())
    providers = [_provider(provider, machine, has_runtime=has_runtime) for provider in _of_this_class(machine)]
    if has_runtime:
        providers += _claimed_besides([report["provider"] for report in providers])
    return {
        "machine": _machine(machine),
        "versions": _versions(),
        "providers": providers,
        "problems": _problems(flavours()),
        "advice": list(_advice(providers, has_runtime=has_runtime)),
    }


def _machine(machine: Machine) -> dict[str, Any]:
    home = Home.from_environment().root
    existing = next(path for path in (home, *home.parents) if path.exists())
    return {
        "class": str(machine.device_class),
        "system": machine.system,
        "architecture": machine.architecture,
        "model": machine.model,
        "threads": machine.cpu_count,
        "cores": machine.cores or "unknown",
        "memory_mb": machine.memory_mb,
        "cpu_flags": " ".join(flag for flag in INTERESTING_FLAGS if flag in machine.cpu_flags),
        "parts": ", ".join(sorted(machine.parts)),
        "drivers": ", ".join(machine.drivers) or "none",
        "home": str(home),
        "disk_free_mb": shutil.disk_usage(existing).free // 2**20,
    }


def _versions() -> dict[str, str]:
    return (
        {"python": platform.python_version(), "onnxruntime": ", ".join(flavours()) or "not installed"}
        | installed_plugins()
        | {name: _installed(name) for name in DISTRIBUTIONS}
    )


def _of_this_class(machine: Machine) -> list[Provider]:
    """Return every provider of the machine's rows, also those whose hardware it lacks, the CPU EP last."""
    rows = [provider for device_class in machine.device_classes for provider in PREFERENCE[device_class]]
    named = {provider.reference for provider in rows}
    return [provider for provider in PROVIDERS if provider.reference in named]


def _provider(provider: Provider, machine: Machine, *, has_runtime: bool) -> dict[str, Any]:
    if provider.part not in machine.parts:
        return _not_tried(provider, "no hardware", f"this machine shows no {provider.part}")
    if not has_runtime or not is_installed(provider):
        return _not_tried(provider, "not installed", provider.install)
    proof = prove_isolated(probe_root(), PROBE_VARIANT, provider.reference)
    return {"status": "proven" if proof.passed else "refused", "legacy": provider.legacy} | proof.model_dump()


def _not_tried(provider: Provider, status: str, reason: str) -> dict[str, Any]:
    return {
        "status": status,
        "legacy": provider.legacy,
        "provider": provider.name,
        "device": provider.device,
        "passed": False,
        "reason": reason,
        "latency_ms": None,
        "node_share": None,
    }


def _claimed_besides(named: Sequence[str]) -> list[dict[str, Any]]:
    """Return what ONNX Runtime claims and no row of this machine names."""
    return [
        _not_tried(
            Provider(name=name),
            "unused",
            UNUSED.get(name) or LEGACY.get(name) or "claimed, but nothing that this class of machine prefers",
        )
        for name in claimed()
        if name not in named
    ]


def _problems(found: Sequence[str]) -> list[str]:
    if len(found) < 2:
        return []
    names = " ".join(one.partition(" ")[0] for one in found)
    text = (
        f"several flavours of ONNX Runtime are installed at once: {', '.join(found)}. They overwrite each other's "
        "files, so that what runs is a mixture. Uninstall all of them, then install one: "
        f"pip uninstall {names}"
    )
    return [text]


def _advice(providers: Sequence[dict[str, Any]], *, has_runtime: bool) -> Iterator[str]:
    if not has_runtime:
        yield "ONNX Runtime is not installed: pip install 'vedette[cpu]' (or [cuda], [openvino])"
        return
    told = set()
    for report in providers:
        if report["status"] == "not installed" and report["reason"] not in told and not report["legacy"]:
            told.add(report["reason"])
            yield f"for {report['provider']}: {report['reason']}"
