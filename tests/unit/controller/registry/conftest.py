"""A draft of a real, tiny artifact, and stores to publish it in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from obstore.store import MemoryStore
from onnx import TensorProto, helper

from controller.lifecycle.variants.golden import write_golden
from controller.lifecycle.variants.kinds import variant_of
from runtime.manifest import Golden, Manifest, Postprocess, Preprocess, Provenance, Resize
from runtime.session import Session
from runtime.store import ModelStore

DraftMaker = Callable[..., tuple[Path, Manifest]]


@pytest.fixture
def make_draft(tmp_path: Path) -> DraftMaker:
    """Make a directory with the files of an artifact, and its manifest; *power* makes another model of it."""

    def make(name: str = "tiny", power: float = 1.0) -> tuple[Path, Manifest]:
        directory = tmp_path / f"draft-{name}-{power}"
        directory.mkdir()
        values = [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
        ]
        nodes = [
            helper.make_node("Cast", ["images"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "power"], ["m"]),
            helper.make_node("ReduceMean", ["m", "axes"], ["scores"], keepdims=0),
        ]
        constants = [
            onnx.numpy_helper.from_array(np.float32(power), "power"),
            onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        ]
        graph = helper.make_graph(nodes, "tiny", values[:1], values[1:], constants)
        path = directory / "model.fp32.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
        batch = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
        scores = power * batch.astype(np.float32).mean(axis=(1, 2))
        golden = write_golden(directory, batch, {"fp32": {"scores": scores}})
        manifest = Manifest(
            name=name,
            version=1,
            task="classification",
            labels=("red", "green", "blue"),
            preprocess=Preprocess(resize=Resize(mode="exact", size=4), embedded=True),
            postprocess=Postprocess(kind="classification", activation="none", top_k=3),
            variants=(variant_of(path, Session(path), "fp32", 1e-3, {}),),
            golden=Golden(**Golden.measure(golden)),
            provenance=Provenance(framework="test", created=datetime(2026, 1, 1, tzinfo=UTC)),
        )
        return directory, manifest

    return make


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    """A store on the disk, and one that only has what object stores have."""
    return ModelStore.open(tmp_path / "store") if request.param == "directory" else ModelStore("memory", MemoryStore())
