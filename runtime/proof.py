"""Proof that an execution provider runs a variant right, asked for from any process.

Rules:
    * The proof runs in a child process with a timeout: a bad driver kills the child, nobody else.
    * This module loads neither NumPy nor ONNX Runtime: the agent's daemon uses it. The child's side
      is `runtime.proving`.
    * Whatever the child does (wrong output, crash, silence) is a proof that did not pass, and says why.
    * A passed proof is kept under a key of all that could change it; a failed one is never kept. A kept
      proof counts only while the files are still the ones that the manifest pins.
    * What a provider compiles (engines of TensorRT, blobs of OpenVINO) lies in a folder of the same key,
      so that it never serves what it was not made for. Of these folders `MOST_ENGINES` are kept, those
      that were used last: a device that is updated for years must not fill its disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.files import replace_bytes
from runtime.hardware import this_machine
from runtime.home import Home
from runtime.providers import Provider, explain, find, flavours, installed_plugins, last_error, ort_version
from runtime.session_options import SessionOptions

__all__ = ["PROOF_TIMEOUT", "Proof", "engine_folder", "ort_version", "proof_key", "prove_isolated"]

PROOF_TIMEOUT: Final = 120.0  # seconds, of a provider that compiles no engines
MOST_ENGINES: Final = 16  # folders; a device needs those of two models, a workstation those of some more
KEY_VERSION: Final = 2  # of the figures below: older proofs lack some


class Proof(BaseModel):
    """What came of running a variant's golden input on one execution provider."""

    model_config = ConfigDict(frozen=True)

    variant: str
    provider: str  # ONNX Runtime's name
    device: str = ""  # CPU, GPU or NPU, of a provider that has several
    passed: bool
    reason: str  # why it passed or did not
    ort: str = ""  # ONNX Runtime's version
    origin: str = ""  # the wheel that the provider came from
    installed: bool = True  # whether ONNX Runtime, or a plug-in, has the provider at all
    max_abs: float | None = None  # largest difference of a float output from the golden one, in that output's unit
    max_relative: float | None = None  # the same relative to the output's range: what the tolerance limits
    build_ms: float | None = None  # from the file to a session; with what an earlier proof had compiled, if any
    latency_ms: float | None = None  # median, batch of one
    latency_p90_ms: float | None = None  # nine of ten runs took no longer
    throughput: float | None = None  # images a second, in batches of `throughput_batch`
    throughput_batch: int | None = None
    node_share: float | None = None  # part of the graph's nodes that really ran on the provider
    shares: dict[str, float] | None = None  # the same by provider; None: ONNX Runtime is too old to tell

    @property
    def reference(self) -> str:
        """The provider as `runtime.providers` names it: ``NAME`` or ``NAME:DEVICE``."""
        return f"{self.provider}:{self.device}" if self.device else self.provider


def proof_key(artifact: Artifact, variant_id: str, provider: Provider, options: SessionOptions) -> str:
    """Return the digest of all that a proof depends on: model, provider, options, versions, drivers, processor."""
    machine, variant = this_machine(), artifact.manifest.variant(variant_id)
    facts = (
        KEY_VERSION,
        variant.id,
        variant.sha256,
        variant.tolerance,
        artifact.manifest.golden.sha256,
        [library.sha256 for library in artifact.manifest.custom_ops],
        provider.reference,
        sorted(provider.options.items()),
        sorted(provider.plugin_options.items()),
        options.unobserved().to_json(),
        flavours(),
        sorted(installed_plugins([provider]).items()),
        machine.model,
        machine.cpu_count,
        machine.drivers,
        sorted(machine.cpu_flags),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def engine_folder(artifact: Artifact, variant_id: str, provider: Provider, options: SessionOptions) -> Path | None:
    """Return the folder for what *provider* compiles for a variant; made by those who write into it.

    ``None``: it keeps nothing, as the CPU's, and a start need not look at the machine a second time for its key.
    """
    if not provider.compiles:
        return None
    return _engines(proof_key(artifact, variant_id, provider, options))


def _engines(key: str) -> Path:
    return Home.from_environment().cache / "engines" / key


def prove_isolated(
    root: Path,
    variant_id: str,
    provider: str,
    *,
    timeout: float | None = None,
    options: SessionOptions | None = None,
) -> Proof:
    """Run the golden input of an artifact through one variant on *provider*, in a child process.

    Args:
        root: The artifact's directory.
        variant_id: Which of its variants.
        provider: Reference of the EP (see `runtime.providers`).
        timeout: Seconds until the child is killed; what the provider needs at most if ``None``.
        options: How the session will use the machine.

    Returns:
        The proof; a crash, a timeout or a wrong output is a proof that did not pass.

    Raises:
        ModelNotFoundError: There is no artifact in *root*, or it has no such variant.
        ManifestError: The artifact's manifest is not valid.
        UsageError: *provider* means no EP.
    """
    artifact, wanted = Artifact.open(root), find(provider)
    options = (options or SessionOptions()).unobserved()
    key = proof_key(artifact, variant_id, wanted, options)
    kept, engines = Home.from_environment().cache / "proofs" / f"{key}.json", _engines(key)
    try:
        artifact.verified_path(artifact.manifest.variant(variant_id))
        artifact.verified_path(artifact.manifest.golden)
    except ArtifactError as error:
        return _failed(variant_id, wanted, str(error))
    with suppress(OSError, ValidationError):  # not proven yet on this machine
        proof = Proof.model_validate_json(kept.read_bytes())
        _keep_latest(engines)
        return proof
    proof = _prove_in_child(root, variant_id, wanted, options, timeout or wanted.proof_seconds)
    _keep_latest(engines)
    if proof.passed:
        with suppress(OSError):  # a disk that is full or read-only costs the next start a second proof
            replace_bytes(kept, proof.model_dump_json(indent=1).encode())
    return proof


def _keep_latest(used: Path) -> None:
    """Remember that the engine folder *used* was used now, if there is one, and remove the oldest beyond the limit."""
    with suppress(OSError):  # there is none, or another process removed one just now
        os.utime(used)
        folders = sorted(used.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in folders[MOST_ENGINES:]:
            shutil.rmtree(folder, ignore_errors=True)


def _failed(variant_id: str, provider: Provider, reason: str) -> Proof:
    return Proof(
        variant=variant_id,
        provider=provider.name,
        device=provider.device,
        passed=False,
        reason=reason,
        ort=ort_version().rpartition(" ")[2],
    )


def _prove_in_child(root: Path, variant_id: str, provider: Provider, options: SessionOptions, timeout: float) -> Proof:
    # -P: a folder called `runtime` where the user happens to be is not ours.
    command = [sys.executable, "-P", "-m", "runtime.proving", str(root.absolute()), variant_id, provider.reference]
    command.append(options.to_json())
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return _failed(variant_id, provider, f"no answer within {timeout:g} s")
    errors = done.stderr.decode(errors="replace")
    try:
        proof = Proof.model_validate_json(b"".join(done.stdout.splitlines()[-1:]))  # drivers may print before it
    except ValidationError:
        last = errors.strip().splitlines()[-1:] or ["no output"]
        return _failed(variant_id, provider, f"the child process {_ending(done.returncode)}: {last[0][:300]}")
    return proof if proof.passed else _with_cause(proof, errors)


def _with_cause(proof: Proof, errors: str) -> Proof:
    """Return a failed *proof* with what ONNX Runtime wrote to stderr before it fell back without an exception."""
    logged = last_error(errors)
    if "fell back" not in proof.reason or not logged:
        return proof
    return proof.model_copy(update={"reason": f"{proof.reason}: {explain(logged)}"})


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
