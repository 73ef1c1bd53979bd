"""A session runs where it was told to, or is not built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.errors import ModelError, ProviderError
from runtime.manifest import Tensor
from runtime.probe import probe_root
from runtime.session import Session, SessionOptions

PROBE = probe_root() / "model.fp32.onnx"


def save(path: Path, inputs: list[onnx.ValueInfoProto], nodes: list[onnx.NodeProto], output: str) -> Path:
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_it_says_what_the_graph_takes_and_gives() -> None:
    session = Session(PROBE)
    assert session.provider == "CPUExecutionProvider"
    assert session.inputs == (Tensor(name="images", dtype="uint8", shape=("N", 16, 16, 3)),)
    assert session.outputs == (Tensor(name="scores", dtype="float32", shape=("N", 4)),)


def test_it_runs_batches_of_any_size() -> None:
    session = Session(PROBE, options=SessionOptions(intra_op_threads=1))
    batch = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    (whole,) = session.run(batch)
    assert whole.shape == (5, 4)
    for number in range(5):
        np.testing.assert_allclose(session.run(batch[number : number + 1])[0], whole[number : number + 1], rtol=1e-5)


def test_the_options_reach_onnx_runtime() -> None:
    options = SessionOptions(intra_op_threads=3, inter_op_threads=2).build()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    spinning = SessionOptions(allow_spinning=True).build()
    assert spinning.get_session_config_entry("session.intra_op.allow_spinning") == "1"


def test_nodes_are_counted_by_provider_only_when_recorded() -> None:
    assert Session(PROBE, record_assignment=True).node_share() == 1.0
    assert Session(PROBE).node_share() is None


def test_a_provider_that_is_not_installed_is_refused() -> None:
    with pytest.raises(
        ProviderError, match=r"CUDAExecutionProvider is not installed: onnxruntime \d.* does not have it"
    ):
        Session(PROBE, "CUDAExecutionProvider")


@pytest.mark.parametrize("content", [b"", b"no model", PROBE.read_bytes()[:-40]])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx cannot be loaded on CPUExecutionProvider: ") as caught:
        Session(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx cannot be loaded"):
        Session(tmp_path / "absent.onnx")


def test_a_batch_that_does_not_fit_is_refused_with_its_shape() -> None:
    session = Session(PROBE)
    for batch in (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)):
        with pytest.raises(ModelError, match=rf"inference of {batch.dtype} \[1, \d+, \d+, 3\] failed: "):
            session.run(batch)


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, [1, 2], [1.0, 2.0])
    path = save(tmp_path / "constant.onnx", [], [helper.make_node("Constant", [], ["out"], value=value)], "out")
    with pytest.raises(ModelError, match=r"constant\.onnx: the graph takes nothing; expected one input of pictures"):
        Session(path)


def test_a_second_input_that_nobody_feeds_is_refused_by_name(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("a", "b")]
    path = save(tmp_path / "two.onnx", inputs, [helper.make_node("Add", ["a", "b"], ["out"])], "out")
    with pytest.raises(ModelError, match=r"the graph takes a float32 \['N', 2\], b float32"):
        Session(path)


def test_dimensions_without_a_name_are_question_marks(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, 2])]
    session = Session(save(tmp_path / "one.onnx", inputs, [helper.make_node("Relu", ["a"], ["out"])], "out"))
    assert session.inputs[0].shape == ("?", 2)
