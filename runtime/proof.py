"""Proof that an execution provider runs a variant right, asked for from any process.

Rules:
    * The proof runs in a child process with a timeout: a bad driver kills the child, nobody else.
    * This module loads neither NumPy nor ONNX Runtime: the agent's daemon uses it. The child's side
      is `runtime.proving`.
    * A passed proof is kept under a key of all that could change it; a failed one is never kept.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.artifact import Artifact
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
    machine = this_machine()
    facts = (
        artifact.manifest.variant(variant_id).sha256,
        artifact.manifest.golden.sha256,
        provider,
        sorted(options_of(provider).items()),
        ort_version(),
        machine.model,
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
        ModelNotFoundError: There is no artifact in *root*.
        ManifestError: The artifact has no such variant.
    """
    kept = _cache_file(Artifact.open(root), variant_id, provider)
    try:
        return Proof.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        pass  # not proven yet on this machine
    proof = _prove_in_child(root, variant_id, provider, timeout)
    if proof.passed:
        replace_bytes(kept, proof.model_dump_json(indent=1).encode())
    return proof


def _prove_in_child(root: Path, variant_id: str, provider: str, timeout: float) -> Proof:
    command = [sys.executable, "-m", "runtime.proving", str(root), variant_id, provider]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {timeout:g} s"
    else:
        try:
            return Proof.model_validate_json(done.stdout)
        except ValidationError:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
            reason = f"the child process ended with code {done.returncode}: {last[0][:300]}"
    return Proof(variant=variant_id, provider=provider, passed=False, reason=reason, ort=ort_version())
