"""A session runs where it was told to, or is not built."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from runtime.errors import ModelError, ProviderError, UsageError
from runtime.manifest import Tensor
from runtime.probe import probe_root
from runtime.session import GraphOptimization, Session, SessionOptions

PROBE = probe_root() / "model.fp32.onnx"
CPU = "CPUExecutionProvider"


def save(path: Path, inputs: list[onnx.ValueInfoProto], nodes: list[onnx.NodeProto], output: str) -> Path:
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)


def test_it_says_what_the_graph_takes_and_gives() -> None:
    session = Session(PROBE)
    assert session.provider == CPU
    assert session.origin == f"built into onnxruntime {onnxruntime.__version__}"
    assert session.inputs == (Tensor(name="images", dtype="uint8", shape=("N", 16, 16, 3)),)
    assert session.outputs == (Tensor(name="scores", dtype="float32", shape=("N", 4)),)
    assert session.batch is None


def test_it_runs_batches_of_any_size() -> None:
    session = Session(PROBE, options=SessionOptions(intra_op_threads=1))
    batch = pictures(5)
    (whole,) = session.run(batch)
    assert whole.shape == (5, 4)
    for number in range(5):
        np.testing.assert_allclose(session.run(batch[number : number + 1])[0], whole[number : number + 1], rtol=1e-5)


def test_nodes_are_counted_by_provider_only_when_recorded() -> None:
    session = Session(PROBE, record_assignment=True)
    assert dict(session.node_counts()) == {CPU: 7}
    assert Session(PROBE).node_counts() is None


def test_a_provider_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ProviderError, match=r"CUDAExecutionProvider is not installed: onnxruntime \d.* does not have"):
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
    path = save(tmp_path / "one.onnx", inputs, [helper.make_node("Relu", ["a"], ["out"])], "out")
    assert Session(path).inputs[0].shape == ("?", 2)
    with pytest.raises(UsageError, match=r"fixed_batch is 2; the batch of .* is a dimension without a name"):
        Session(path, options=SessionOptions(fixed_batch=2))


# Options


def test_the_options_reach_onnx_runtime(tmp_path: Path) -> None:
    options = SessionOptions(
        intra_op_threads=3,
        inter_op_threads=2,
        parallel=True,
        enable_cpu_mem_arena=False,
        enable_mem_pattern=False,
        graph_optimization=GraphOptimization.BASIC,
        profiling=tmp_path / "profile",
    ).build()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert (options.enable_profiling, options.profile_file_prefix) == (True, str(tmp_path / "profile"))


def test_the_defaults_share_the_machine() -> None:
    options = SessionOptions().build()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (0, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern, options.enable_profiling) == (True, True, False)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "0"
    spinning = SessionOptions(allow_spinning=True, disable_cpu_fallback=True).build()
    assert spinning.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert spinning.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_options_cross_processes_as_json(tmp_path: Path) -> None:
    options = SessionOptions(
        intra_op_threads=2, graph_optimization=GraphOptimization.EXTENDED, profiling=tmp_path / "p", fixed_batch=4
    )
    assert SessionOptions.from_json(options.to_json()) == options
    assert SessionOptions.from_json(SessionOptions().to_json()) == SessionOptions()
    assert options.unobserved() == SessionOptions(
        intra_op_threads=2, graph_optimization=GraphOptimization.EXTENDED, fixed_batch=4
    )


@pytest.mark.parametrize("text", ["", "[]", '{"threads": 1}', '{"graph_optimization": "MOST", "profiling": null}'])
def test_options_that_cannot_be_read_are_a_wrong_call(text: str) -> None:
    with pytest.raises(UsageError, match="session options"):
        SessionOptions.from_json(text)


@pytest.mark.parametrize("fields", [{"intra_op_threads": -1}, {"inter_op_threads": -1}, {"fixed_batch": 0}])
def test_numbers_out_of_range_are_a_wrong_call(fields: dict[str, int]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(UsageError, match=f"session option {name} is {value}; expected"):
        SessionOptions(**fields)


@pytest.mark.parametrize("level", list(GraphOptimization))
def test_every_level_of_optimization_gives_the_same(level: GraphOptimization) -> None:
    batch = pictures(2)
    (found,) = Session(PROBE, options=SessionOptions(graph_optimization=level)).run(batch)
    np.testing.assert_allclose(found, Session(PROBE).run(batch)[0], rtol=1e-5)


def test_a_profile_is_a_trace_of_the_runs(tmp_path: Path) -> None:
    session = Session(PROBE, options=SessionOptions(profiling=tmp_path / "probe"))
    session.run(pictures(1))
    path = session.end_profiling()
    assert path.parent == tmp_path
    assert path.name.startswith("probe")
    events = json.loads(path.read_text())
    assert any(event.get("args", {}).get("op_name") == "Conv" for event in events)
    with pytest.raises(UsageError, match="the session is not profiled"):
        Session(PROBE).end_profiling()


def test_the_cpu_cannot_do_without_itself() -> None:
    with pytest.raises(ModelError, match="cannot be loaded on CPUExecutionProvider: Conflicting session configuration"):
        Session(PROBE, options=SessionOptions(disable_cpu_fallback=True))


def test_a_free_batch_can_be_pinned() -> None:
    session = Session(PROBE, options=SessionOptions(fixed_batch=4))
    assert session.batch == 4
    assert session.inputs[0].shape == ("N", 16, 16, 3)  # what the graph takes by itself
    assert session.run(pictures(4))[0].shape == (4, 4)
    with pytest.raises(ModelError, match=r"inference of uint8 \[3, 16, 16, 3\] failed"):
        session.run(pictures(3))


def test_a_batch_that_is_fixed_already_is_that_size_or_a_wrong_call(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 2])]
    path = save(tmp_path / "two.onnx", inputs, [helper.make_node("Relu", ["a"], ["out"])], "out")
    assert Session(path, options=SessionOptions(fixed_batch=2)).batch == Session(path).batch == 2
    with pytest.raises(UsageError, match=r"fixed_batch is 3; the batch of .*two\.onnx is always 2"):
        Session(path, options=SessionOptions(fixed_batch=3))


def test_a_graph_is_captured_only_by_who_can() -> None:
    with pytest.raises(UsageError, match="capture_graph: CPUExecutionProvider cannot capture a graph"):
        Session(PROBE, options=SessionOptions(capture_graph=True, fixed_batch=4))


def test_no_session_warns() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = Session(PROBE)
    assert [str(one.message) for one in caught] == []
    assert session.provider == "CPUExecutionProvider"
