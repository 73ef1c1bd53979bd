"""A variant that was published as unproven, and the first real device of its class that proves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from color_model import SIDE, color_artifact
from fleet_lab import lab, wait_for
from onnx import TensorProto, helper, numpy_helper

from controller.registry.publish import publish
from runtime.artifact import Artifact
from runtime.hardware import this_machine
from runtime.manifest import VariantRequires
from runtime.store import ModelStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WIDTH = 256
PROMISED = "int8-u8s8"


def _graph(rounds: int) -> onnx.ModelProto:
    """Three scores, the mean of each channel, after so many products with the identity: only the time differs."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "widen"], ["wide0"]),
        *(helper.make_node("MatMul", [f"wide{n}", "identity"], [f"wide{n + 1}"]) for n in range(rounds)),
        helper.make_node("MatMul", [f"wide{rounds}", "narrow"], ["scores"]),
    ]
    widen = np.eye(3, WIDTH, dtype=np.float32) / 255
    constants = {
        "axes": np.array([1, 2], np.int64),
        "widen": widen,
        "identity": np.eye(WIDTH, dtype=np.float32),
        "narrow": np.eye(WIDTH, 3, dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _artifact(root: Path) -> Artifact:
    """Write a slow fp32 and a fast variant, which is unproven, for the class of this very machine."""
    root.mkdir()
    models = {name: root / f"model.{name}.onnx" for name in ("fp32", PROMISED)}
    for path, rounds in zip(models.values(), (400, 1), strict=True):
        onnx.save(_graph(rounds), path)
    return color_artifact(models, root, name="means")


def _publish(store: ModelStore, root: Path) -> None:
    artifact = _artifact(root)
    fp32, promised = artifact.manifest.variants
    ours = VariantRequires(any_cpu_flags=("no_such_flag", *sorted(this_machine().cpu_flags)[:1]))
    promised = promised.model_copy(
        update={"precision": "int8", "unproven": True, "providers": ("CPUExecutionProvider",), "requires": ours}
    )
    publish(store, root, artifact.manifest.model_copy(update={"variants": (fp32, promised)}))


def test_first_device_of_its_class_measures_runs_and_reports_an_unproven_variant(tmp_path: Path) -> None:
    with lab(tmp_path) as opened:
        _publish(ModelStore.open(opened.home / "store"), tmp_path / "means")
        before = opened.run("vedette", "model", "show", "means@1").stdout
        assert before.rstrip().endswith("unproven")  # no controller can be asked
        opened.start_controller()
        opened.add_devices("cam1")
        assert opened.get("/models/means/1/proofs") == []
        rollout = opened.roll_out("means@1", waves="100%")
        assert rollout["state"] == "succeeded"

        (proof,) = wait_for("the proof", lambda: opened.get("/models/means/1/proofs"))
        assert (proof["device"], proof["variant"], proof["passed"]) == ("cam1", PROMISED, True)
        assert proof["provider"] == "CPUExecutionProvider"
        assert proof["device_class"] == this_machine().device_class
        assert proof["latency_ms"] < proof["fp32_latency_ms"]
        assert proof["speedup"] == pytest.approx(proof["fp32_latency_ms"] / proof["latency_ms"])

        active = opened.get("/devices/cam1")["reported"]["active"]
        assert active["variant"] == PROMISED  # it was measured to be faster, so it serves
        told = f"proven on cam1 (cpu) {proof['speedup']:.1f}x"
        assert f"unproven; {told}" in opened.run("vedette", "model", "show", "means@1").stdout
        assert f"{PROMISED}: {told}" in opened.run("vedette", "device", "show", "cam1").stdout
        kept = {path.name for path in (tmp_path / "agents" / "cam1").rglob("*.onnx")}
        assert kept == {f"model.{PROMISED}.onnx"}  # what was only compared with is not kept
        manifest = opened.json("vedette", "model", "show", "means@1")
        assert [variant["unproven"] for variant in manifest["variants"]] == [False, True]  # it never changes
