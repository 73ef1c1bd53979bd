"""How the probe artifact is made, and that the one in the package is just that.

PYTHONPATH=tests/support python tests/unit/runtime/test_probe.py runtime/probe/artifact    makes it anew
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from artifact_of import artifact_of
from onnx import TensorProto, helper, numpy_helper

from runtime.artifact import Artifact
from runtime.manifest import Manifest, Postprocess, Preprocess
from runtime.probe import PROBE_VARIANT, probe_root
from runtime.proof import prove_isolated


def build_model() -> onnx.ModelProto:
    """uint8 NHWC -> float NCHW -> 3x3 convolution -> ReLU -> mean -> 4 scores."""
    weights = np.linspace(-0.01, 0.01, 8 * 3 * 3 * 3, dtype=np.float32).reshape(8, 3, 3, 3)
    head = np.linspace(-1.0, 1.0, 8 * 4, dtype=np.float32).reshape(8, 4)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("MatMul", ["vector", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(head, "head")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="vedette")


def golden_input() -> np.ndarray:
    return (np.arange(2 * 16 * 16 * 3) % 251).astype(np.uint8).reshape(2, 16, 16, 3)


def build(root: Path) -> Manifest:
    root.mkdir(parents=True, exist_ok=True)
    model = root / "model.fp32.onnx"
    onnx.save(build_model(), model)
    return artifact_of(
        {PROBE_VARIANT: model},
        root,
        Preprocess(crop=(16, 16), embedded=True),
        Postprocess(kind="classification"),
        golden_input=golden_input(),
        opset=20,
        ir=10,
        name="probe",
        task="classification",
        labels=("a", "b", "c", "d"),
    ).manifest


def test_the_packaged_probe_is_what_the_recipe_makes(tmp_path: Path) -> None:
    packaged = Artifact.open(probe_root())
    packaged.verify()
    built = build(tmp_path)
    assert packaged.manifest.variant(PROBE_VARIANT).sha256 == built.variant(PROBE_VARIANT).sha256
    with np.load(packaged.root / "golden.npz") as kept, np.load(tmp_path / "golden.npz") as made:
        assert set(kept) == set(made)
        for name in kept:
            np.testing.assert_allclose(kept[name], made[name], atol=1e-4)


def test_the_cpu_runs_the_probe(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VEDETTE_HOME", str(tmp_path))
    proof = prove_isolated(probe_root(), PROBE_VARIANT, "CPUExecutionProvider")
    assert proof.passed, proof.reason
    assert proof.node_share == 1.0


if __name__ == "__main__":
    build(Path(sys.argv[1]))
