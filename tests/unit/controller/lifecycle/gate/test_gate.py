from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from controller.errors import ExportError, ParityError
from controller.lifecycle.export import export_by_dynamo
from controller.lifecycle.gate.checks import Behaviour, Reference, check_behaviour, check_graph, gate_batches
from controller.lifecycle.gate.inner_values import GraphValues
from runtime.manifest import Tensor
from runtime.session import Session

GraphMaker = Callable[..., onnx.ModelProto]


def saved(model: onnx.ModelProto, directory: Path) -> Path:
    path = directory / "model.onnx"
    onnx.save(model, path)
    return path


def batches(session: Session) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=(n, 3, 8, 8)).astype(np.float32) for n in gate_batches(session.inputs[0])]


def behaviour(session: Session, reference: Reference, directory: Path) -> Behaviour:
    return check_behaviour(session, batches(session), reference, path=directory / "model.onnx")


def test_good_graph_passes_and_its_parity_is_told(conv_graph: GraphMaker, tmp_path: Path) -> None:
    session = check_graph(saved(conv_graph(), tmp_path))
    assert behaviour(session, session.run, tmp_path) == Behaviour(parity=0)

    def a_bit_off(batch: np.ndarray) -> list[np.ndarray]:
        return [session.run(batch)[0] + np.float32(5e-5)]

    assert behaviour(session, a_bit_off, tmp_path).parity == pytest.approx(5e-5, rel=0.1)


def test_difference_from_the_source_is_refused_with_the_figures(conv_graph: GraphMaker, tmp_path: Path) -> None:
    session = check_graph(saved(conv_graph(), tmp_path))

    def off(batch: np.ndarray) -> list[np.ndarray]:
        return [session.run(batch)[0] + (0.25 if len(batch) == 3 else 0)]

    with pytest.raises(ExportError, match=r"differs .* by 0\.25 for a batch of 3, .*; at most 0\.00\d+ is expected"):
        behaviour(session, off, tmp_path)

    def other_shape(batch: np.ndarray) -> list[np.ndarray]:
        return [session.run(batch)[0][:, :3]]

    with pytest.raises(ExportError, match=r"shape \(1, 4\) for a batch of 1; the source gives \(1, 3\)"):
        behaviour(session, other_shape, tmp_path)


def test_nan_is_refused(conv_graph: GraphMaker, tmp_path: Path) -> None:
    model = conv_graph(last="Log")  # of negative numbers
    session = check_graph(saved(model, tmp_path))
    with pytest.raises(ExportError, match="holds NaN or infinity"):
        behaviour(session, session.run, tmp_path)


def test_parity_that_fails_names_the_first_node_that_differs(conv_graph: GraphMaker, tmp_path: Path) -> None:
    source, damaged = conv_graph(), conv_graph()
    (weight,) = [one for one in damaged.graph.initializer if one.name == "w"]
    array = numpy_helper.to_array(weight).copy()
    array[5, 1, 1, 1] += 1
    weight.CopyFrom(numpy_helper.from_array(array, "w"))
    session = check_graph(saved(damaged, tmp_path))

    def inside(batch: np.ndarray) -> GraphValues:
        return GraphValues(source, {"x": batch})

    def given(batch: np.ndarray) -> list[np.ndarray]:
        return [inside(batch)["scores"]]

    with pytest.raises(
        ParityError, match=r"differs from the source by .*; the first node that differs is Conv 'conv': "
    ) as e:
        check_behaviour(session, batches(session), given, path=tmp_path / "model.onnx", values=inside)
    assert "it takes x, w, which agree within 0, and gives 'c', which is off by" in str(e.value)
    with pytest.raises(ParityError) as e:
        check_behaviour(session, batches(session), given, path=tmp_path / "model.onnx", values=lambda _: {})
    assert "first node" not in str(e.value)


def test_replaced_operator_is_named(conv_graph: GraphMaker, tmp_path: Path) -> None:
    source, other = conv_graph(), conv_graph()
    other.graph.node[1].op_type = "Tanh"
    session = check_graph(saved(other, tmp_path))

    def inside(batch: np.ndarray) -> GraphValues:
        return GraphValues(source, {"x": batch})

    with pytest.raises(
        ParityError, match=r"; the first node that differs is Tanh 'relu': it takes c, which agree within 0"
    ):
        check_behaviour(
            session,
            batches(session),
            lambda batch: [inside(batch)["scores"]],
            path=tmp_path / "model.onnx",
            values=inside,
        )


def test_source_that_draws_at_random_is_refused(conv_graph: GraphMaker, tmp_path: Path) -> None:
    session = check_graph(saved(conv_graph(), tmp_path))
    generator = np.random.default_rng(0)

    def drawing(batch: np.ndarray) -> list[np.ndarray]:
        return [output * generator.choice([0, 2], output.shape).astype(np.float32) for output in session.run(batch)]

    with pytest.raises(
        ExportError, match=r"the same batch of 1 a second time with numbers that are .* off\. Cause: the "
    ):
        behaviour(session, drawing, tmp_path)


def test_weights_near_zero_prove_nothing_and_that_is_said(conv_graph: GraphMaker, tmp_path: Path) -> None:
    model = conv_graph()
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e-4), weight.name))
    session = check_graph(saved(model, tmp_path))
    (note,) = behaviour(session, session.run, tmp_path).notes
    assert note.startswith(
        "the source gives (nearly) the same numbers for different pictures, so that agreement proves"
    )
    assert note.endswith("import it with trained weights")


def test_labels_alone_are_compared_where_the_source_says_so(conv_graph: GraphMaker, tmp_path: Path) -> None:
    session = check_graph(saved(conv_graph(), tmp_path))

    def steps(batch: np.ndarray) -> list[np.ndarray]:
        return [np.eye(4, dtype=np.float32)[session.run(batch)[0].argmax(axis=1)]]

    found = check_behaviour(session, batches(session), steps, path=tmp_path / "model.onnx", compares_labels=True)
    assert found.parity == 0
    with pytest.raises(ParityError, match="differs from the source"):
        behaviour(session, steps, tmp_path)


def test_unknown_operator_wrong_shape_and_versions_are_refused(conv_graph: GraphMaker, tmp_path: Path) -> None:
    unknown = conv_graph()
    unknown.graph.node[1].op_type = "Rellu"
    with pytest.raises(ExportError, match=r"no valid ONNX graph.*Rellu"):
        check_graph(saved(unknown, tmp_path))
    lying = conv_graph()
    lying.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(ExportError, match="no valid ONNX graph"):
        check_graph(saved(lying, tmp_path))
    with pytest.raises(ExportError, match="has opset 23 and IR 11; published are at most opset 21 and IR 10"):
        check_graph(saved(conv_graph(opset=23, ir=11), tmp_path))


def test_operator_that_onnx_runtime_lacks_is_refused(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in ("x", "y")]
    node = helper.make_node("MyOwn", ["x"], ["y"], domain="example.org")
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("example.org", 1)]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    with pytest.raises(ExportError, match="MyOwn"):
        check_graph(saved(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path))


def test_fixed_batch_is_checked_as_it_is() -> None:
    assert gate_batches(Tensor(name="x", dtype="float32", shape=("N", 3, 8, 8))) == (1, 3)
    assert gate_batches(Tensor(name="x", dtype="float32", shape=(10, 3, 8, 8))) == (10,)


class _Noisy(nn.Module):
    """Batch normalization and dropout, whose two modes differ grossly."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(3.0)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(images).mean(dim=(2, 3))))


def test_export_is_in_eval_mode_with_a_dynamic_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Noisy().train()
    exported, _ = export_by_dynamo(model, torch.zeros(2, 3, 8, 8), ["logits"])
    assert model.training
    assert model.drop.training
    assert exported.ir_version == 10
    assert exported.opset_import[0].version == 20
    session = check_graph(saved(exported, tmp_path))
    assert session.inputs[0].shape == ("N", 3, 8, 8)
    model.eval()

    def reference(batch: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [model(torch.from_numpy(batch)).numpy()]

    assert behaviour(session, reference, tmp_path).parity < 1e-5
    assert not list(tmp_path.glob("*.data"))


class _DataDependent(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) if float(images.sum()) > 0 else images.amax(dim=(2, 3))


def test_model_that_torch_cannot_export_is_refused_with_its_reason() -> None:
    with pytest.raises(ExportError, match="torch cannot export _DataDependent: "):
        export_by_dynamo(_DataDependent(), torch.zeros(2, 3, 8, 8), ["logits"])
