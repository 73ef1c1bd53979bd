"""Graphs that the frameworks' converters made, and that were damaged on the way: the error names the node."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen
import jax
import numpy as np
import onnx
import pytest
import torch
from flax import nnx
from onnx import numpy_helper
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from controller.errors import ParityError
from controller.lifecycle.gate.checks import check_behaviour, check_graph
from controller.lifecycle.importers.jax_model import JaxSource, call_in_eval_mode
from controller.lifecycle.importers.sklearn_model import SklearnSource, compares_labels
from controller.lifecycle.importers.source import Source, SourceFacts
from controller.lifecycle.importers.torch_module import ModuleSource

pytestmark = pytest.mark.integration

SIZE = 16


class Net(nn.Module):
    """A convolution, a second one beside a shortcut, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.stem(pixels))
        return self.head((first + torch.relu(self.inner(first))).mean((2, 3)))


def test_values_of_torch_have_the_names_of_the_graph(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    facts = SourceFacts(framework="torch", source_sha256="0" * 64, routes=("dynamo",))
    source = ModuleSource(Net(), torch.zeros(2, 3, SIZE, SIZE), facts)
    graph, path = source.convert("dynamo"), tmp_path / "model.onnx"
    batches = [np.random.default_rng(n).normal(size=(n, 3, SIZE, SIZE)).astype(np.float32) for n in (1, 3)]
    onnx.save(graph, path)
    assert check_behaviour(check_graph(path), batches, source.run, path=path, values=source.values).parity < 1e-5

    node = [node for node in graph.graph.node if node.op_type == "Conv"][1]
    (weight,) = [one for one in graph.graph.initializer if one.name == node.input[1]]
    array = numpy_helper.to_array(weight).copy()
    array[3, 2, 1, 1] += 1
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(graph, path)
    session = check_graph(path)
    with pytest.raises(ParityError) as caught:
        check_behaviour(session, batches, source.run, path=path, values=source.values)
    assert f"; the first node that differs is Conv {node.name!r}: it takes {', '.join(node.input)}, which" in str(
        caught.value
    )


def facts(route: str) -> SourceFacts:
    return SourceFacts(framework="any", source_sha256="0" * 64, routes=(route,))


class NnxNet(nnx.Module):
    """A convolution with batch normalization, a second one beside a shortcut, layer normalization, a linear layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.norm = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.inner, self.last = nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, pixels: Any) -> Any:
        first = nnx.relu(self.norm(self.stem(pixels)))
        return self.head(self.last(first + nnx.gelu(self.inner(first))).mean(axis=(1, 2)))


class LinenNet(flax.linen.Module):
    """The same in linen, with a pool."""

    @flax.linen.compact
    def __call__(self, pixels: Any) -> Any:
        first = flax.linen.relu(flax.linen.BatchNorm(use_running_average=True)(flax.linen.Conv(8, (3, 3))(pixels)))
        second = first + flax.linen.relu(flax.linen.Conv(8, (3, 3))(first))
        pooled = flax.linen.max_pool(second, (2, 2), (2, 2))  # type: ignore[no-untyped-call]  # flax's own is untyped
        return flax.linen.Dense(4)(pooled.reshape(pooled.shape[0], -1))


def moved(weights: Any) -> Any:
    """Return *weights* as if training had moved them: no scale of one, no shift of zero."""
    generator = np.random.default_rng(4)

    def one(array: Any) -> Any:
        if not np.issubdtype(array.dtype, np.floating):
            return array
        by = generator.normal(0, 0.2, array.shape).astype(np.float32)
        return array + (by if array.ndim > 1 else np.abs(by))  # a variance stays positive

    return jax.tree.map(one, weights)


def nnx_source() -> JaxSource:
    call, weights = call_in_eval_mode(NnxNet(nnx.Rngs(0)))
    return JaxSource(call, moved(weights), (SIZE, SIZE, 3), facts("jax2onnx"), name="NnxNet")


def linen_source() -> JaxSource:
    variables = LinenNet().init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    call = lambda weights, pixels: LinenNet().apply(weights, pixels)  # noqa: E731
    return JaxSource(call, moved(variables), (SIZE, SIZE, 3), facts("jax2onnx"), name="LinenNet")


def sklearn_source(*steps: Any) -> SklearnSource:
    pixels, labels = load_digits(return_X_y=True)
    estimator = make_pipeline(*steps).fit(pixels[:400], labels[:400])
    return SklearnSource(estimator, (8, 8, 1), facts("skl2onnx"))


def damaged(
    graph: onnx.ModelProto, operator: str, which: int, how: Callable[[onnx.ModelProto, onnx.NodeProto], None]
) -> str:
    """Damage the node number *which* of *operator* in *graph*; return its name."""
    node = [node for node in graph.graph.node if node.op_type == operator][which]
    how(graph, node)
    name: str = node.name
    return name


def some_weights(graph: onnx.ModelProto, node: onnx.NodeProto) -> None:
    for weight in graph.graph.initializer:
        if weight.name == node.input[1]:
            array = numpy_helper.to_array(weight).copy()
            array.flat[array.size // 2 :] *= 1.5
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))


def its_epsilon(_: onnx.ModelProto, node: onnx.NodeProto) -> None:
    (epsilon,) = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
    epsilon.f = 0.1


def an_attribute(name: str) -> Callable[[onnx.ModelProto, onnx.NodeProto], None]:
    def damage(_: onnx.ModelProto, node: onnx.NodeProto) -> None:
        (attribute,) = [attribute for attribute in node.attribute if attribute.name == name]
        numbers = np.array(attribute.floats)
        attribute.floats[:] = numbers + np.linspace(0, 2, len(numbers)) * np.abs(numbers).mean()

    return damage


def assert_named(source: Source, batches: Sequence[np.ndarray], path: Path, *damage: Any, labels: bool = False) -> str:
    """See that the graph agrees, and that the error names the node once it is damaged; return the error."""
    graph = source.convert(source.facts.routes[0])
    onnx.save(graph, path)

    def check() -> None:
        session = check_graph(path)
        check_behaviour(session, batches, source.run, path=path, values=source.values, compares_labels=labels)

    check()
    name = damaged(graph, *damage)
    onnx.save(graph, path)
    with pytest.raises(ParityError) as caught:
        check()
    assert re.search(
        rf"; the first node that differs is {damage[0]} '{name}': it takes .*, which agree within", str(caught.value)
    )
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "damage"),
    [
        (nnx_source, ("Conv", 0, some_weights)),
        (nnx_source, ("Conv", 1, some_weights)),
        (nnx_source, ("BatchNormalization", 0, its_epsilon)),
        (nnx_source, ("Gemm", 0, some_weights)),
        (linen_source, ("Conv", 1, some_weights)),
        (linen_source, ("BatchNormalization", 0, its_epsilon)),
    ],
)
def test_node_of_a_jax_model_is_named_though_no_names_are_shared(
    tmp_path: Path, make: Callable[[], JaxSource], damage: Any
) -> None:
    batches = [np.random.default_rng(n).normal(size=(n, SIZE, SIZE, 3)).astype(np.float32) for n in (1, 3)]
    assert_named(make(), batches, tmp_path / "model.onnx", *damage)


@pytest.mark.parametrize(
    ("steps", "damage", "part"),
    [
        ((StandardScaler(), SVC()), ("Scaler", 0, an_attribute("scale")), "Pipeline: standardscaler"),
        ((StandardScaler(), PCA(20), SVC()), ("MatMul", 0, some_weights), "Pipeline: pca"),
        ((StandardScaler(), SVC()), ("SVMClassifier", 0, an_attribute("coefficients")), "Pipeline: svc: pairs"),
        ((MLPClassifier((16, 12), max_iter=30, random_state=0),), ("MatMul", 1, some_weights), "product 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_node_of_a_classifier_is_named_with_the_step_that_it_stands_for(
    tmp_path: Path, steps: tuple[Any, ...], damage: Any, part: str
) -> None:
    batches = [
        load_digits().data[start : start + n].reshape(n, 8, 8, 1).astype(np.float32) for start, n in ((0, 1), (5, 3))
    ]
    assert part in assert_named(sklearn_source(*steps), batches, tmp_path / "model.onnx", *damage)


def test_scaler_before_a_tree_is_named_though_labels_alone_are_compared(tmp_path: Path) -> None:
    source = sklearn_source(StandardScaler(), DecisionTreeClassifier(random_state=0))
    assert compares_labels(source._estimator)
    batches = [load_digits().data[:40].reshape(40, 8, 8, 1).astype(np.float32)]
    text = assert_named(source, batches, tmp_path / "model.onnx", "Scaler", 0, an_attribute("scale"), labels=True)
    assert "of the pictures get another label" in text
