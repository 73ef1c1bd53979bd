"""Small parts that several of the agent's tests need."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from runtime.manifest import Manifest
from runtime.protocol.messages import Assignment, ModelState


@pytest.fixture
def model_state():
    """Make the state of version *version* of a model."""

    def make(version: int, variant: str = "fp32") -> ModelState:
        return ModelState(
            model="tiny",
            version=version,
            manifest_sha256=f"{version:064x}",
            variant=variant,
            provider="CPUExecutionProvider",
        )

    return make


@pytest.fixture
def assignment():
    """Make an assignment to device ``cam1``."""

    def make(sequence: int, version: int = 1, **fields) -> Assignment:
        digest = fields.pop("manifest_sha256", f"{version:064x}")
        return Assignment(
            device=fields.pop("device", "cam1"),
            sequence=sequence,
            model="tiny",
            version=version,
            manifest_sha256=digest,
            manifest_size=fields.pop("manifest_size", 100),
            **fields,
        )

    return make


@pytest.fixture
def manifest():
    """Make a manifest whose *variants* are (id, precision, latency_ms, providers); files are their ids' bytes."""

    def make(*variants: tuple[str, str, float | None, tuple[str, ...]], **fields) -> Manifest:
        def pin(name: str) -> dict:
            data = name.encode()
            digest = hashlib.sha256(data).hexdigest()
            return {"file": name, "size": len(data), "sha256": digest, "chunks": [digest]}

        document = {
            "name": "tiny",
            "version": 1,
            "task": "classification",
            "preprocess": {},
            "postprocess": {"kind": "classification"},
            "variants": [
                {
                    **pin(f"model.{name}.onnx"),
                    "id": name,
                    "precision": precision,
                    "opset": 20,
                    "ir": 10,
                    "inputs": [],
                    "outputs": [],
                    "providers": providers,
                    "metrics": {} if latency is None else {"latency_ms": latency},
                }
                for name, precision, latency, providers in variants
            ],
            "golden": pin("golden.npz"),
            "provenance": {"framework": "none", "created": datetime(2026, 1, 1, tzinfo=UTC)},
        }
        return Manifest.model_validate(document | fields)

    return make
