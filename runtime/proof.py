"""Proof that an execution provider runs a variant right, asked for from any process.

Rules:
    * The proof runs in a child process with a timeout: a bad driver kills the child, nobody else.
    * This module loads neither NumPy nor ONNX Runtime: the agent's daemon uses it. The child's side
      is `runtime.proving`.
    * Whatever the child does (wrong output, crash, silence) is a proof that did not pass, and says why.
    * A passed proof is kept under a key of all that could change it; a failed one is never kept. A kept
      proof counts only while the files are still the ones that the manifest pins.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.files import replace_bytes
from runtime.hardware import this_machine
from runtime.home import Home
from runtime.providers import options_of

__all__ = ["PROOF_TIMEOUT", "Proof", "ort_version", "prove_isolated"]

PROOF_TIMEOUT: Final = 120.0  # seconds
ORT_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn")


class Proof(BaseModel):
    """What came of running a variant's golden input on one execution provider."""

    model_config = ConfigDict(frozen=True)

    variant: str
    provider: str
    passed: bool
    reason: str  # why it passed or did not
    ort: str = ""  # ONNX Runtime's version
    max_abs: float | None = None  # largest difference from the golden output
    latency_ms: float | None = None  # median, batch of one
    node_share: float | None = None  # part of the graph's nodes that really ran on the provider


def ort_version() -> str:
    """Return flavour and version of the installed ONNX Runtime without loading it; empty if there is none."""
    for distribution in ORT_DISTRIBUTIONS:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return ""


def _cache_file(artifact: Artifact, variant_id: str, provider: str) -> Path:
    machine, variant = this_machine(), artifact.manifest.variant(variant_id)
    facts = (
        variant.id,
        variant.sha256,
        variant.tolerance,
        artifact.manifest.golden.sha256,
        provider,
        sorted(options_of(provider).items()),
        ort_version(),
        machine.model,
        machine.nvidia_driver,
        sorted(machine.cpu_flags),
    )
    return Home.from_environment().cache / "proofs" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()}.json"


def prove_isolated(root: Path, variant_id: str, provider: str, *, timeout: float = PROOF_TIMEOUT) -> Proof:
    """Run the golden input of an artifact through one variant on *provider*, in a child process.

    Args:
        root: The artifact's directory.
        variant_id: Which of its variants.
        provider: ONNX Runtime's name of the EP.
        timeout: Seconds until the child is killed.

    Returns:
        The proof; a crash, a timeout or a wrong output is a proof that did not pass.

    Raises:
        ModelNotFoundError: There is no artifact in *root*, or it has no such variant.
        ManifestError: The artifact's manifest is not valid.
    """
    artifact = Artifact.open(root)
    kept = _cache_file(artifact, variant_id, provider)
    try:
        artifact.verified_path(artifact.manifest.variant(variant_id))
        artifact.verified_path(artifact.manifest.golden)
    except ArtifactError as error:
        return _failed(variant_id, provider, str(error))
    with suppress(OSError, ValidationError):  # not proven yet on this machine
        return Proof.model_validate_json(kept.read_bytes())
    proof = _prove_in_child(root, variant_id, provider, timeout)
    if proof.passed:
        with suppress(OSError):  # a disk that is full or read-only costs the next start a second proof
            replace_bytes(kept, proof.model_dump_json(indent=1).encode())
    return proof


def _failed(variant_id: str, provider: str, reason: str) -> Proof:
    ort = ort_version().rpartition(" ")[2]
    return Proof(variant=variant_id, provider=provider, passed=False, reason=reason, ort=ort)


def _prove_in_child(root: Path, variant_id: str, provider: str, timeout: float) -> Proof:
    # -P: a folder called `runtime` where the user happens to be is not ours.
    command = [sys.executable, "-P", "-m", "runtime.proving", str(root.absolute()), variant_id, provider]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return _failed(variant_id, provider, f"no answer within {timeout:g} s")
    try:
        return Proof.model_validate_json(b"".join(done.stdout.splitlines()[-1:]))  # drivers may print before it
    except ValidationError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return _failed(variant_id, provider, f"the child process {_ending(done.returncode)}: {last[0][:300]}")


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
