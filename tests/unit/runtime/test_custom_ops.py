"""Operators that ONNX Runtime does not have: a library by absolute path and digest, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from custom_operators import library_path
from onnx import TensorProto, helper
from pydantic import ValidationError

from runtime.artifact import Artifact
from runtime.custom_ops import pinned, verify
from runtime.errors import ModelError, UsageError
from runtime.manifest import CustomOps
from runtime.probe import PROBE_VARIANT
from runtime.proof import prove_isolated
from runtime.session import Session

CPU = "CPUExecutionProvider"


@pytest.fixture
def library() -> Path:
    """A real library of operators."""
    return library_path()


@pytest.fixture
def inverter(tmp_path: Path) -> Path:
    """A graph that needs it: uint8 pictures, each a matrix that ``ai.onnx.contrib::Inverse`` inverts."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["matrix"]),
        helper.make_node("Inverse", ["matrix"], ["inverse"], domain="ai.onnx.contrib"),
        helper.make_node("Unsqueeze", ["inverse", "front"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "inverter",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 2, 2, 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, 2])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [2, 2]),
            helper.make_tensor("front", TensorProto.INT64, [1], [0]),
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.contrib", 1)]
    path = tmp_path / "inverter.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_a_graph_of_unknown_operators_runs_with_the_library_alone(inverter: Path, library: Path) -> None:
    with pytest.raises(ModelError, match=r"inverter\.onnx cannot be loaded on CPU.*ai\.onnx\.contrib"):
        Session(inverter)
    session = Session(inverter, custom_ops=pinned(library))
    matrix = np.array([[[[2], [1]], [[1], [1]]]], np.uint8)
    np.testing.assert_allclose(session.run(matrix)[0], [[[1, -1], [-1, 2]]], atol=1e-6)


def test_a_library_with_another_content_is_not_loaded(inverter: Path, library: Path, tmp_path: Path) -> None:
    changed = tmp_path / "ops.so"
    changed.write_bytes(library.read_bytes() + b"\0")
    named = pinned(library)[0].model_copy(update={"path": str(changed)})
    with pytest.raises(ModelError, match=rf"custom operator library {changed} has SHA-256 .*; the manifest pins "):
        Session(inverter, custom_ops=[named])


def test_a_proof_loads_the_manifests_library(
    probe: Path, library: Path, change_manifest: Callable[..., Artifact]
) -> None:
    change_manifest(probe, custom_ops=[pinned(library)[0].model_dump(mode="json")])
    assert prove_isolated(probe, PROBE_VARIANT, CPU).passed
    wrong = {"path": str(library), "sha256": "0" * 64}
    change_manifest(probe, custom_ops=[wrong])
    refused = prove_isolated(probe, PROBE_VARIANT, CPU)
    assert not refused.passed
    assert f"the manifest pins {'0' * 64}" in refused.reason


def test_a_library_is_pinned_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ops.so").write_bytes(b"library")
    (found,) = pinned(Path("ops.so"))
    assert (found.path, found.sha256) == (str(tmp_path / "ops.so"), hashlib.sha256(b"library").hexdigest())
    assert pinned(None) == ()
    with pytest.raises(UsageError, match=r"--custom-ops none\.so is no file"):
        pinned(Path("none.so"))


def test_a_relative_path_is_no_library() -> None:
    with pytest.raises(ValidationError, match=r"custom operator library 'ops\.so': expected an absolute path"):
        CustomOps(path="ops.so", sha256="0" * 64)


def test_what_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.so", tmp_path):
        with pytest.raises(ModelError, match=r"is not there; the manifest names it: install it at that path"):
            verify(CustomOps(path=str(path), sha256="0" * 64))


def test_a_file_that_is_no_library_is_refused_by_onnx_runtime(tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("no library")
    with pytest.raises(ModelError, match=rf"custom operator library {path} cannot be loaded: "):
        Session(tmp_path / "absent.onnx", custom_ops=pinned(path))
