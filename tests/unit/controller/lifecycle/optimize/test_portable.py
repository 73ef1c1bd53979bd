"""A step is kept if it earns its place, and left out with a word if it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import command_line
from custom_operators import library_path
from onnx import TensorProto, helper, numpy_helper

from controller.errors import ExportError
from controller.lifecycle.look.target import noise
from controller.lifecycle.optimize.portable import Optimized, optimize_graph
from controller.lifecycle.optimize.steps import FOLDING, STEPS, Step, count_nodes, with_facts_of
from controller.lifecycle.pixel_input import EMBEDDED_PREFIX, embed_normalization
from runtime.manifest import Preprocess
from runtime.session import Session


@pytest.fixture
def wasteful(conv_graph: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """A classifier with what optimizers are for: a batch normalization and an identity."""
    model = conv_graph()
    graph = model.graph
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    for name, value in (("s", 2 * ones), ("o", ones), ("m", zeros), ("v", ones)):
        graph.initializer.append(numpy_helper.from_array(value, name))
    relu = next(node for node in graph.node if node.op_type == "Relu")
    relu.input[0] = "n"
    nodes = [*graph.node]
    nodes[1:1] = [
        helper.make_node("Identity", ["c"], ["i"], name="identity"),
        helper.make_node("BatchNormalization", ["i", "s", "o", "m", "v"], ["n"], name="norm"),
    ]
    graph.ClearField("node")
    graph.node.extend(nodes)
    helper.set_model_props(model, {"stride": "32"})
    model.producer_name, model.producer_version = "pytorch", "2.13"
    return model


def batches(session: Session) -> list[np.ndarray]:
    return [noise(session, count) for count in (1, 3)]


def taken(model: onnx.ModelProto, step: Step) -> Optimized:
    return optimize_graph(model, batches, steps={"it": step})


def test_all_steps_together_leave_a_smaller_graph_of_the_same_facts(wasteful: onnx.ModelProto) -> None:
    found = optimize_graph(wasteful, batches)
    assert [node.op_type for node in found.model.graph.node][:2] == ["Conv", "Relu"]
    assert found.after.nodes == count_nodes(found.model) < found.before.nodes == count_nodes(wasteful)
    assert list(found.model.graph.input) == list(wasteful.graph.input)
    assert list(found.model.graph.output) == list(wasteful.graph.output)
    for field in ("ir_version", "opset_import", "metadata_props", "producer_name", "producer_version"):
        assert getattr(found.model, field) == getattr(wasteful, field), field
    assert not found.model.graph.value_info
    assert found.notes[0].startswith("optimized by ")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("std", [(0.2, 0.3, 0.4), (0.25,)])
def test_the_embedded_normalization_keeps_the_names_that_quantization_knows_it_by(
    conv_graph: Callable[..., onnx.ModelProto], layout: str, std: tuple[float, ...]
) -> None:
    source = conv_graph(layout=layout)
    after_conv = 1 + [node.op_type for node in source.graph.node].index("Conv")
    source.graph.node[after_conv].input[0] = "same"
    source.graph.node.insert(after_conv, helper.make_node("Identity", ["c"], ["same"], name="identity"))
    model = embed_normalization(source, Preprocess(mean=tuple(0.5 for _ in std), std=std, scale=1 / 255))
    found = optimize_graph(model, batches)
    assert found.after.nodes < found.before.nodes

    def ours(graph: onnx.ModelProto) -> list[tuple[str, str]]:
        return [(n.name, n.op_type) for n in graph.graph.node if n.name.startswith(EMBEDDED_PREFIX)]

    assert ours(found.model) == ours(model) != []


def test_a_normalization_is_folded_on_request_only(wasteful: onnx.ModelProto) -> None:
    for nodes, steps in ((["Mul", "Conv"], STEPS), (["Conv"], {**STEPS, **FOLDING})):
        model = onnx.ModelProto()
        model.CopyFrom(wasteful)
        model.graph.initializer.append(numpy_helper.from_array(np.float32([0.5]), "half"))
        model.graph.node.insert(0, helper.make_node("Mul", ["x", "half"], ["scaled"], name="scale"))
        model.graph.node[1].input[0] = "scaled"
        found = optimize_graph(model, batches, steps=steps)
        assert [node.op_type for node in found.model.graph.node][: len(nodes)] == nodes


def test_a_step_that_changes_the_answer_is_left_out_with_a_note(wasteful: onnx.ModelProto) -> None:
    def without_normalization(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.node[3].input[0] = "c"
        del changed.graph.node[1:3]
        return changed

    found = taken(wasteful, without_normalization)
    assert found.model is wasteful
    (note,) = found.notes
    assert "step it was left out" in note
    assert "differs from the source" in note


def test_a_step_that_fails_is_left_out_with_a_note(wasteful: onnx.ModelProto) -> None:
    def failing(_model: onnx.ModelProto) -> onnx.ModelProto:
        raise RecursionError("too deep")

    found = taken(wasteful, failing)
    assert found.model is wasteful
    assert found.notes == ("optimization step it was left out: it failed: RecursionError: too deep",)


def test_a_step_that_gives_an_invalid_graph_is_left_out_with_a_note(wasteful: onnx.ModelProto) -> None:
    def cutting(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        del changed.graph.node[0]
        return changed

    assert "no valid ONNX graph" in taken(wasteful, cutting).notes[0]


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_step_that_lets_the_graph_grow_is_left_out_silently(wasteful: onnx.ModelProto, size: int) -> None:
    def growing(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.initializer.append(numpy_helper.from_array(np.zeros(size, np.float32), "more"))
        changed.graph.node.insert(0, helper.make_node("Identity", ["more"], ["unused"]))
        return changed

    found = taken(wasteful, growing)
    assert found.model is wasteful
    assert found.notes == ()
    assert "grew" in found.steps[0].said


def test_a_step_that_finds_nothing_is_left_out_silently(wasteful: onnx.ModelProto) -> None:
    found = taken(wasteful, lambda model: model)
    assert (found.model, found.notes, found.steps[0].said) == (wasteful, (), "nothing to gain")


def test_a_step_that_touches_operators_of_others_is_left_out(wasteful: onnx.ModelProto) -> None:
    relu = next(node for node in wasteful.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "QuickGelu", "com.microsoft"
    wasteful.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    def replacing(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        one = next(node for node in changed.graph.node if node.op_type == "QuickGelu")
        one.op_type, one.domain = "Relu", ""
        changed.graph.node.remove(next(node for node in changed.graph.node if node.op_type == "Identity"))
        return changed

    assert "operators that are not ONNX's own" in taken(wasteful, replacing).notes[0]
    kept = optimize_graph(wasteful, batches)
    assert ("com.microsoft", "QuickGelu") in {(node.domain, node.op_type) for node in kept.model.graph.node}
    assert kept.after.nodes < kept.before.nodes


def test_a_graph_that_does_not_pass_the_gate_is_refused(wasteful: onnx.ModelProto) -> None:
    wasteful.graph.output[0].name = "nobody"
    with pytest.raises(ExportError, match="no valid ONNX graph"):
        optimize_graph(wasteful, batches)


def test_another_opset_is_refused(wasteful: onnx.ModelProto) -> None:
    newer = onnx.ModelProto()
    newer.CopyFrom(wasteful)
    newer.opset_import[0].version += 1
    with pytest.raises(ExportError, match="changed the opset to 19"):
        with_facts_of(wasteful, newer)


def test_weights_stay_inputs_where_the_ir_wants_them_so(conv_graph: Callable[..., onnx.ModelProto]) -> None:
    model = conv_graph(opset=8, ir=3)
    model.graph.input.extend(
        helper.make_tensor_value_info(one.name, TensorProto.FLOAT, one.dims) for one in model.graph.initializer
    )
    model.graph.node.insert(3, helper.make_node("Identity", ["p"], ["q"], name="identity"))
    next(node for node in model.graph.node if node.op_type == "Flatten").input[0] = "q"
    found = optimize_graph(model, batches)
    assert found.model.ir_version == 3
    assert found.after.nodes < found.before.nodes
    assert {one.name for one in found.model.graph.initializer} < {one.name for one in found.model.graph.input}


def test_the_command_prints_a_table_and_writes_the_graph(
    wasteful: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vedette = command_line(capsys)
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(wasteful, source)
    code, result, _ = vedette("model", "optimize", source, "--out", out, "--json")
    assert code == 0
    assert [step["step"] for step in result["steps"]] == list(STEPS)
    assert result["after"]["nodes"] == count_nodes(onnx.load(out)) < result["before"]["nodes"]
    assert result["before"]["latency_ms"] > 0
    code, text, _ = vedette("model", "optimize", source, "--out", out)
    assert (code, "ms, 1 thread" in text) == (0, True)
    code, result, _ = vedette("model", "optimize", source, "--fold-normalization", "--out", out, "--json")
    assert [step["step"] for step in result["steps"]] == [*STEPS, *FOLDING]
    code, _, error = vedette("model", "optimize", source, "--out", tmp_path / "out.txt")
    assert (code, "does not end in .onnx" in error) == (2, True)


def test_a_file_of_other_operators_is_optimized_with_their_library(
    wasteful: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = library_path()
    vedette = command_line(capsys)
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    wasteful.graph.node[-1].output[0] = "inner"
    wasteful.graph.node.append(
        helper.make_node("NegPos", ["inner"], ["below", wasteful.graph.output[0].name], domain="ai.onnx.contrib")
    )
    wasteful.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    onnx.save(wasteful, source)
    code, _, error = vedette("model", "optimize", source, "--out", out)
    assert code == 1
    assert "ai.onnx.contrib" in error
    assert "--custom-ops" in error
    code, result, error = vedette("model", "optimize", source, "--out", out, "--custom-ops", library, "--json")
    assert code == 0, error
    assert result["after"]["nodes"] < result["before"]["nodes"]
    assert "NegPos" in [node.op_type for node in onnx.load(out).graph.node]
    for_cpu = ("--for", "cpu", "--custom-ops", library, "--json")
    code, result, error = vedette("model", "optimize", source, "--out", out, *for_cpu)
    assert code == 0, error
    assert Path(result["out"]).is_file()
    code, _, error = vedette("model", "optimize", "digits@1", "--out", out, "--custom-ops", library)
    assert code == 2
    assert "the manifest of digits@1 names the libraries that it needs; --custom-ops is for .onnx files" in error
