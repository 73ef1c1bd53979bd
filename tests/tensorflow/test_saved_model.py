"""SavedModels that TensorFlow made, imported from an environment without TensorFlow (`make test-tensorflow`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command
from onnx import numpy_helper

from controller.errors import ParityError
from controller.lifecycle.gate.checks import check_behaviour, check_graph
from controller.lifecycle.importers.child import Child
from controller.lifecycle.importers.source import Job
from runtime.datasets import open_dataset
from runtime.images import load
from runtime.predictor import Predictor
from runtime.store import resolve_artifact

PYTHON = os.environ.get("VEDETTE_TEST_TENSORFLOW")  # of an environment with TensorFlow and tf2onnx

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(PYTHON is None, reason="no TensorFlow here; run: make test-tensorflow"),
]


def pictures(uri: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 (n, 8, 8, 3), 0 to 1, and labels (n,) of the digits at *uri*."""
    rows = list(open_dataset(uri).rows())
    images = np.stack([load(row.image) for row in rows if row.image is not None])
    return (images / 255).astype(np.float32), np.array([row.label for row in rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The directory of the SavedModels, and what TensorFlow says of them."""
    root = tmp_path_factory.mktemp("saved_models")
    (train, train_labels), (test, test_labels) = pictures("digits#train"), pictures("digits#test")
    np.savez(root / "digits.npz", train=train, train_labels=train_labels, test=test, test_labels=test_labels)
    maker = Path(__file__).with_name("make_saved_models.py")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    assert PYTHON is not None
    command = [PYTHON, str(maker), str(root / "digits.npz"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


def test_saved_model_is_imported_published_and_as_good_as_in_tensorflow(
    command: Command, made: tuple[Path, dict[str, object]]
) -> None:
    root, said = made
    arguments = (
        "--task",
        "classification",
        "--preprocess",
        "unit",
        "--evaluation",
        "digits#test",
        "--precision",
        "fp32",
    )
    code, imported, err = command(
        "model", "import", root / "digits", "--name", "digits", *arguments, "--importer-python", PYTHON, "--json"
    )
    assert code == 0, err
    assert "of its signatures, 'serving_default' is imported" in err
    assert isinstance(said["right"], float)
    assert said["right"] > 0.9
    metrics = imported["variants"]["fp32"]["metrics"]
    assert metrics["top1"] == pytest.approx(said["right"], abs=1e-6)
    assert metrics["parity_max_abs"] < 1e-4

    artifact = resolve_artifact("digits")
    assert artifact.manifest.provenance.framework == f"tensorflow {said['tensorflow']}"
    images, labels = pictures("digits#test")
    predictions = Predictor(artifact, provider="cpu").predict(list((images * 255).round().astype(np.uint8)))
    assert np.mean([p.label_id for p in predictions] == labels) == pytest.approx(said["right"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected", "says"),
    [
        ("without_default", 2, "has the signatures 'one', 'two'; expected 'serving_default', or one alone"),
        ("no_pictures", 2, "expected one tensor of pictures"),
        ("no_such_operator", 1, "ONNX has nothing for TensorFlow's operators Svd"),
        ("damaged", 1, "does not read"),
    ],
)
def test_what_cannot_be_imported_says_why(
    command: Command, made: tuple[Path, dict[str, object]], name: str, expected: int, says: str
) -> None:
    directory = made[0] / name
    if name == "damaged":
        directory.mkdir()
        (directory / "saved_model.pb").write_bytes(b"\xff\xff no protobuf")
    given = ("--task", "classification", "--preprocess", "unit", "--importer-python", PYTHON)
    code, _, err = command("model", "import", directory, "--name", "bad", *given)
    errors = [line for line in err.splitlines() if line.startswith("vedette: error: ")]
    assert (code, len(errors)) == (expected, 1), err
    assert says in errors[0]


def test_our_own_interpreter_has_no_tensorflow_and_says_what_to_do(
    command: Command, made: tuple[Path, dict[str, object]]
) -> None:
    given = ("--task", "classification", "--preprocess", "unit")
    code, _, err = command("model", "import", made[0] / "digits", "--name", "bad", *given)
    assert code == 2
    assert "has no module 'tensorflow'; name an interpreter that has it with --importer-python" in err


@pytest.mark.parametrize(("operator", "which"), [("Conv", 0), ("Conv", 1), ("MatMul", 0)])
def test_damaged_node_is_named_though_the_graph_is_channels_first(
    made: tuple[Path, dict[str, object]], tmp_path: Path, operator: str, which: int
) -> None:
    assert PYTHON is not None
    source, path = str(made[0] / "normalized"), tmp_path / "model.onnx"
    child = Child(source, None, Path(PYTHON))
    try:
        child.open("controller.lifecycle.importers.saved_model", Job(source=source))
        graph = child.convert("tf2onnx")
        batches = [np.random.default_rng(n).normal(size=(n, 8, 8, 3)).astype(np.float32) for n in (1, 3)]
        onnx.save(graph, path)
        check_behaviour(check_graph(path), batches, child.run, path=path, values=child.values)

        node = [node for node in graph.graph.node if node.op_type == operator][which]
        (weight,) = [one for one in graph.graph.initializer if one.name == node.input[1]]
        array = numpy_helper.to_array(weight).copy()
        array.flat[array.size // 2] += 1
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(graph, path)
        session = check_graph(path)
        with pytest.raises(ParityError) as caught:
            check_behaviour(session, batches, child.run, path=path, values=child.values)
    finally:
        child.close()
    assert f"; the first node that differs is {operator} {node.name!r}" in str(caught.value)
