"""Models of JAX become graphs that give what they give: nnx and linen, in eval mode, with weights from every file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen
import flax.serialization
import jax
import numpy as np
import onnx
import onnxruntime
import orbax.checkpoint
import pytest
from flax import nnx

from controller.errors import ExportError
from controller.lifecycle.importers.jax_model import JaxSource, open_built, weights_of
from controller.lifecycle.importers.source import Job
from runtime.errors import UsageError
from runtime.files import hash_file

SOURCE = f"{__name__}:make"  # whose factory is not called: the tests open what it would make
JOB = Job(source=SOURCE, image_size=(12, 10))


class Network(nnx.Module):
    """Layers whose eval mode differs from their training mode, and pooling as flax' own examples call it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.BatchNorm(6, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, pixels: Any) -> Any:
        features = nnx.max_pool(nnx.relu(self.layers[1](self.layers[0](pixels))), (2, 2), (2, 2))
        return self.head(self.dropout(features.mean((1, 2))))


class LinenNetwork(flax.linen.Module):
    """The same of linen, with pooling padded by numbers, and two outputs."""

    @flax.linen.compact
    def __call__(self, pixels: Any, train: bool = True) -> Any:
        features = flax.linen.Conv(5, (3, 3))(pixels)
        features = flax.linen.BatchNorm(use_running_average=not train)(features)
        features = flax.linen.max_pool(features, (3, 3), (2, 2), ((1, 1), (1, 1)))
        features = flax.linen.avg_pool(features, (2, 2), (2, 2), ((0, 0), (1, 0)))
        pooled = flax.linen.Dropout(0.5, deterministic=not train)(features.reshape(features.shape[0], -1))
        return {"embedding": pooled, "logits": flax.linen.Dense(4)(pooled)}


def linen_network() -> tuple[LinenNetwork, Any]:
    variables = LinenNetwork().init(jax.random.key(1), np.zeros((1, 12, 10, 3), np.float32), train=False)
    statistics = jax.tree.map(lambda value: value + 0.3, variables["batch_stats"])
    return LinenNetwork(), {**variables, "batch_stats": statistics}


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 12, 10, 3)).astype(np.float32)


def assert_graph_answers_as(source: JaxSource) -> onnx.ModelProto:
    graph = source.convert("jax2onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert (graph.ir_version, graph.opset_import[0].version) == (10, 21)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        found, expected = session.run(None, {"pixels": noise(count)}), source.run(noise(count))
        assert [one.shape for one in found] == [one.shape for one in expected]
        assert all(np.abs(ours - theirs).max() < 1e-5 for ours, theirs in zip(found, expected, strict=True))
    return graph


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(nnx.Rngs(0))


@pytest.fixture(scope="module")
def opened(network: Network) -> JaxSource:
    return open_built(network, JOB)


def test_an_nnx_module_is_opened_in_eval_mode(opened: JaxSource) -> None:
    graph = assert_graph_answers_as(opened)
    assert [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == ["N", 12, 10, 3]
    first, again = opened.run(noise(2)), opened.run(noise(2))
    assert np.array_equal(first[0], again[0])  # nothing is dropped
    alone = opened.run(noise(2)[:1])
    assert np.abs(first[0][:1] - alone[0]).max() < 1e-5  # and no picture is normalized by the others


def test_a_linen_module_is_called_as_in_eval_mode_whatever_its_default() -> None:
    source = open_built(linen_network(), JOB)
    graph = assert_graph_answers_as(source)
    assert [value.name for value in graph.graph.output] == ["output_0", "output_1"]
    assert source.facts.framework == f"flax {flax.__version__}"
    module, variables = linen_network()
    bound = open_built(module.bind(variables), JOB)
    assert np.array_equal(bound.run(noise(2))[1], source.run(noise(2))[1])


def test_a_module_of_flax_itself_comes_from_the_file_of_the_factory() -> None:
    source = open_built(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), JOB)
    assert source.facts.source_sha256 == hash_file(Path(__file__))


def _npz(path: Path, weights: dict[str, Any]) -> Path:
    np.savez(path / "weights.npz", **weights)
    return path / "weights.npz"


def _msgpack(path: Path, weights: dict[str, Any]) -> Path:
    (path / "w.msgpack").write_bytes(flax.serialization.msgpack_serialize(_nested(weights)))
    return path / "w.msgpack"


def _orbax(path: Path, weights: dict[str, Any]) -> Path:
    state = {"weights": _nested(weights), "step": np.int32(7)}["weights"]
    orbax.checkpoint.PyTreeCheckpointer().save(path / "checkpoint", {**state, "step": np.int32(7)})
    return path / "checkpoint"


def _nested(weights: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in weights.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = np.asarray(value)
    return tree


@pytest.mark.parametrize("write", [_npz, _msgpack, _orbax])
def test_weights_of_a_file_are_put_into_what_the_factory_made(
    write: Callable[[Path, dict[str, Any]], Path], network: Network, opened: JaxSource, tmp_path: Path
) -> None:
    file = write(tmp_path, weights_of(network))
    other = open_built(Network(nnx.Rngs(9)), JOB)
    loaded = open_built(Network(nnx.Rngs(9)), Job(source=SOURCE, image_size=(12, 10), weights=file))
    assert np.array_equal(loaded.run(noise(2))[0], opened.run(noise(2))[0])
    assert not np.allclose(other.run(noise(2))[0], opened.run(noise(2))[0])
    assert loaded.facts.warnings == ()
    assert "--weights" in other.facts.warnings[0]


def test_weights_of_linen_variables_are_put_in(tmp_path: Path) -> None:
    module, variables = linen_network()
    (tmp_path / "w.msgpack").write_bytes(flax.serialization.to_bytes(variables))
    fresh = module.init(jax.random.key(8), noise(1), train=False)
    job = Job(source=SOURCE, image_size=(12, 10), weights=tmp_path / "w.msgpack")
    expected = open_built((module, variables), JOB).run(noise(2))[1]
    assert np.array_equal(open_built((module, fresh), job).run(noise(2))[1], expected)


def test_weights_of_another_model_are_refused_by_name(network: Network, tmp_path: Path) -> None:
    weights = weights_of(network)
    weights["head/kernel"] = np.zeros((6, 5), np.float32)
    del weights["layers/1/mean"]
    job = Job(source=SOURCE, image_size=(12, 10), weights=_npz(tmp_path, weights))
    with pytest.raises(ExportError, match=r"1 missing.*layers/1/mean.*head/kernel is \(6, 5\), expected \(6, 4\)"):
        open_built(Network(nnx.Rngs(9)), job)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("w.npz", b"no", ExportError),
        ("w.msgpack", b"\xc1", ExportError),
        ("w.pth", b"", UsageError),
        ("", b"", UsageError),
    ],
)
def test_files_that_hold_no_weights_are_refused(
    name: str, content: bytes, error: type[Exception], tmp_path: Path
) -> None:
    file = tmp_path / (name or "absent.npz")
    if name:
        file.write_bytes(content)
    with pytest.raises(error, match=file.name):
        open_built(Network(nnx.Rngs(9)), Job(source=SOURCE, image_size=(12, 10), weights=file))


def test_what_cannot_be_opened_is_refused_with_what_was_expected(network: Network) -> None:
    with pytest.raises(UsageError, match=r"expected \(module, variables\)"):
        open_built(LinenNetwork(), JOB)
    with pytest.raises(UsageError, match="--image-size is needed"):
        open_built(network, Job(source=SOURCE))
    with pytest.raises(ExportError, match=r"Network does not run a batch of shape \(2, 12, 10, 1\)"):
        open_built(network, Job(source=SOURCE, image_size=(12, 10), color="L"))


def test_what_jax2onnx_has_no_way_for_is_refused_by_its_reason() -> None:
    class Odd(nnx.Module):
        def __call__(self, pixels: Any) -> Any:
            return flax.linen.avg_pool(pixels, (2, 2), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)

    with pytest.raises(ExportError, match="count_include_pad=False cannot be converted"):
        open_built(Odd(), JOB).convert("jax2onnx")
