"""An NVIDIA GPU at the boundary of ONNX Runtime: sessions of the CPU's, and proofs that are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from runtime import session
from runtime.artifact import Artifact
from runtime.home import Home
from runtime.proof import Proof, proof_key
from runtime.providers import find, origin_of
from runtime.session_options import SessionOptions

__all__ = ["Gpu"]


class Watched:
    """An ONNX Runtime session of the CPU's that notes its runs with bindings."""

    def __init__(self, real: onnxruntime.InferenceSession, runs: list[tuple[int, ...]]) -> None:
        self._real = real
        self._runs = runs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        shape = next(iter(binding._bound_inputs.values())).shape()
        self._runs.append(tuple(shape))
        self._real.run_with_iobinding(binding, options)


class Gpu:
    """Stands where an execution provider with device memory is opened; its tensors are the CPU's.

    Attributes:
        opened: Provider options of each session that was opened, besides the catalog's.
        runs: Shape of the first input of each run.
    """

    description = "a double"

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened: list[dict[str, str]] = []
        self.runs: list[tuple[int, ...]] = []
        patch.setattr(session, "find", lambda name: replace(found := find(name), memory=found.memory and "cpu"))
        patch.setattr(session, "origin_of", lambda one: self if one.memory else origin_of(one))

    def open(self, path: Path, options: Any, _folder: Path | None, extra: Mapping[str, str]) -> Any:
        """Return a session; see `runtime.providers.Origin.open`."""
        self.opened.append(dict(extra))
        real = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Watched(real, self.runs)

    @staticmethod
    def prove(artifact: Artifact, variant: str, provider: str, options: SessionOptions, latency: float) -> None:
        """Keep a proof of *variant* as a device of that *provider* would have left it, *latency* in milliseconds."""
        wanted = find(provider)
        proof = Proof(variant=variant, provider=wanted.name, passed=True, reason="matched", latency_ms=latency)
        kept = Home.from_environment().cache / "proofs" / f"{proof_key(artifact, variant, wanted, options)}.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(proof.model_dump_json())
