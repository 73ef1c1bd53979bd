"""Proofs asked for by the daemon: in a process group of their own, that ends when the wait for it does.

Rules:
    * `runtime.proof.prove_isolated` decides; here it only gets a process that can be killed, so that
      a superseded update or a stopping agent waits for no driver.
    * When the agent dies, the group dies.
    * What the device can do is what was proven with the probe artifact, not what ONNX Runtime lists.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from edge_agent.lifeline import bind_to_parent
from edge_agent.update import Capabilities
from runtime.hardware import this_machine
from runtime.probe import PROBE_VARIANT, probe_root
from runtime.proof import Proof, ort_version, prove_isolated
from runtime.providers import preferences

__all__ = ["capabilities", "prove", "prove_providers"]

_GRACE = 10.0  # seconds beyond the proof's own timeout


async def prove(root: Path, variant: str, provider: str, *, seconds: float) -> Proof:
    """Return the proof of one variant in the artifact directory *root* on *provider*; cancelled, nothing is left.

    Args:
        root: The artifact's directory.
        variant: Which of its variants.
        provider: Reference of the execution provider (see `runtime.providers`).
        seconds: Until the proof counts as failed.
    """
    arguments = (str(root), variant, provider, str(seconds), str(os.getpid()))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a folder of the working directory must not shadow our packages
        "-m",
        "edge_agent.proving",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    reason = f"no answer within {seconds:g} s"
    try:
        async with asyncio.timeout(seconds + _GRACE):
            output, errors = await process.communicate()
        return Proof.model_validate_json(output)
    except ValidationError:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        reason = f"the proof ended with code {process.returncode}: {last[0][:300]}"
    except TimeoutError:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    name, _, device = provider.partition(":")
    return Proof(variant=variant, provider=name, device=device, passed=False, reason=reason, ort=ort_version())


async def prove_providers(*, seconds: float) -> list[Proof]:
    """Return a proof, with the probe artifact, of each execution provider preferred on this machine, in that order.

    Args:
        seconds: That one may take; more for a provider that says that it needs more.
    """
    return [
        await prove(probe_root(), PROBE_VARIANT, one.reference, seconds=max(seconds, one.proof_seconds))
        for one in preferences(this_machine())
    ]


def capabilities(proofs: list[Proof], home: Path) -> Capabilities:
    """Return what the device has, as its *proofs* and the disk below *home* say."""
    passed = [proof for proof in proofs if proof.passed]
    ort = passed[0].ort if passed else ort_version()
    return Capabilities(
        ort=ort.rpartition(" ")[2],  # `onnxruntime 1.32.0` where it was not loaded
        memory_mb=this_machine().memory_mb,
        disk_mb=shutil.disk_usage(home).free // 2**20,
        providers=tuple(proof.reference for proof in passed),
        proofs=tuple(proofs),
    )


def _main(root: str, variant: str, provider: str, seconds: str, parent: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(os.getpgrp(), signal.SIGKILL))
    bind_to_parent(int(parent))
    proof = prove_isolated(Path(root), variant, provider, timeout=float(seconds))
    sys.stdout.write(proof.model_dump_json())


if __name__ == "__main__":
    _main(*sys.argv[1:6])
