"""Models run on the oldest ONNX Runtime that they claim (`make test-oldest-ort`); elsewhere these tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command
from mobilenet import IMAGENET, mobilenet_artifact
from onnx import TensorProto, helper, numpy_helper

from controller.errors import ExportError
from controller.lifecycle.gate.checks import check_behaviour, check_graph
from controller.lifecycle.gate.oldest import OLDEST_VARIABLE, OldestRuntime, prove_on_oldest
from controller.lifecycle.graph import load_graph, with_paddings_apart
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.quantize import Scheme, prepare, quantize
from runtime.datasets import open_dataset
from runtime.manifest import Requires
from runtime.preprocess import Preprocessor
from runtime.session import Session
from runtime.store import resolve_artifact

PYTHON = os.environ.get(OLDEST_VARIABLE)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(PYTHON is None, reason="no old ONNX Runtime here; run: make test-oldest-ort"),
]


@pytest.fixture(scope="module")
def oldest() -> OldestRuntime:
    return OldestRuntime.open(Path(str(PYTHON)))


def test_it_is_the_version_that_manifests_claim(oldest: OldestRuntime) -> None:
    assert oldest.version.startswith("1.22.")
    assert oldest.claim == ">=1.22" == Requires().ort


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("int8", 0.02)])
def test_mobilenet_loads_and_agrees_there(
    oldest: OldestRuntime, test_data: Callable[[str], Path], tmp_path: Path, precision: str, tolerance: float
) -> None:
    path, pictures = test_data("models/mobilenet_v2.onnx"), open_dataset(str(test_data("images/imagenet300")))
    if precision == "int8":
        graph = prepare(load_graph(path))
        images = Calibration(graph, pictures, Preprocessor(IMAGENET, Session(path).image), images=8)
        path = tmp_path / "int8.onnx"
        onnx.save(quantize(graph, images.ranges(), Scheme()), path)
    check_graph(path, oldest=oldest)
    artifact = mobilenet_artifact(precision, path, tmp_path / "artifact", test_data, tolerance=tolerance)
    assert prove_on_oldest(artifact.root, artifact.manifest, oldest).requires.ort == ">=1.22"


def test_a_trained_model_claims_what_was_run_and_may_claim_nothing_else(
    command: Command, oldest: OldestRuntime, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert command("train", "--data", "digits#train", "--arch", "tiny", "--epochs", "1", "--out", run)[0] == 0
    arguments = ("--name", "digits", "--precision", "fp32")
    code, _, err = command("model", "import", run, *arguments)
    assert code == 0, err
    assert "nothing was run on the oldest" not in err
    artifact = resolve_artifact("digits")
    assert artifact.manifest.requires.ort == ">=1.22"
    pulled = tmp_path / "pulled"
    assert command("model", "pull", "digits", pulled)[0] == 0
    golden = dict(np.load(pulled / "golden.npz"))
    (name,) = (key for key in golden if key.startswith("output/"))
    np.savez(pulled / "golden.npz", **{**golden, name: golden[name] + np.float32(1)})
    changed = artifact.manifest.golden.measure(pulled / "golden.npz")
    manifest = artifact.manifest.model_copy(update={"golden": artifact.manifest.golden.model_copy(update=changed)})
    with pytest.raises(ExportError, match=r"gives something else on ONNX Runtime 1\.22\.\d+: output .* differs"):
        prove_on_oldest(pulled, manifest, oldest)


def saved(path: Path, operator: str, *, opset: int, ir: int = 10) -> Path:
    """Write a graph of a convolution and *operator* as a file."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node(operator, ["c"], ["y"], name="last")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), path)
    return path


def test_the_gate_runs_its_batches_there(oldest: OldestRuntime, tmp_path: Path) -> None:
    path = saved(tmp_path / "good.onnx", "Relu", opset=21)
    session = check_graph(path, oldest=oldest)
    batches = [np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32) for n in (1, 3)]
    assert check_behaviour(session, batches, session.run, path=path, oldest=oldest).parity == 0
    ours = [session.run(batch)[0] for batch in batches]
    theirs = [given["y"] for given in oldest.run(path, [{"x": batch} for batch in batches])]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_padding_with_zeros_before_a_pooling_holds_there(oldest: OldestRuntime, tmp_path: Path) -> None:
    """As in ResNet50V2 of Keras Applications; ONNX Runtime 1.22 moves it into the pooling, where a zero is no zero."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 20]> padded (float[N,3,8,8] x) => (float[N,3,5,5] y)
        <int64[8] pads = {0,0,1,1,0,0,1,1}> {
            all = Pad(x, pads)
            y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(all)
        }""")
    batch = -np.ones((3, 3, 8, 8), np.float32)
    for graph, corner in ((model, -1), (with_paddings_apart(model), 0)):
        onnx.save(graph, tmp_path / "padded.onnx")
        given = oldest.run(tmp_path / "padded.onnx", [{"x": batch}])[0]["y"]
        assert given[0, 0, 0, 0] == corner
        assert given[0, 0, 2, 2] == -1


@pytest.mark.parametrize(
    ("operator", "opset", "ir", "found"),
    [
        ("Relu", 23, 10, "It has opset 23 and IR 10; published are at most opset 21 and IR 10"),
        ("Relu", 21, 11, "It has opset 21 and IR 11; published are at most opset 21 and IR 10"),
        ("Swish", 24, 10, "It has opset 24 and IR 10; published are at most opset 21 and IR 10"),
        ("Swish", 21, 10, "Operator Swish came with opset 24, the model declares 21"),
    ],
)
def test_what_is_too_new_for_it_is_refused_with_the_diagnosis(
    oldest: OldestRuntime, tmp_path: Path, operator: str, opset: int, ir: int, found: str
) -> None:
    path = saved(tmp_path / "new.onnx", operator, opset=opset, ir=ir)
    with pytest.raises(ExportError, match=r"new\.onnx does not run on ONNX Runtime 1\.22\.\d+, the oldest") as caught:
        oldest.run(path)
    assert f"{found}. Cause: " in str(caught.value)
    assert ". Fix: " in str(caught.value)


def test_a_difference_between_the_two_versions_is_refused(oldest: OldestRuntime, tmp_path: Path) -> None:
    """The file that the session was built on is another one by the time that the oldest runs it."""
    path = saved(tmp_path / "graph.onnx", "Relu", opset=21)
    session = check_graph(path, oldest=oldest)
    batches = [np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32) for n in (1, 3)]
    saved(path, "Tanh", opset=21)
    with pytest.raises(ExportError, match=r"graph\.onnx gives something else on ONNX Runtime 1\.22\.\d+ than on this"):
        check_behaviour(session, batches, session.run, path=path, oldest=oldest)
