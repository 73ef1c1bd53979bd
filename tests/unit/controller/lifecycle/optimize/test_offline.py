"""ONNX Runtime's own graph says what it is for, and nobody imports it by mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import command_line

from controller.errors import ExportError
from controller.lifecycle.gate.checks import check_graph
from controller.lifecycle.optimize.offline import (
    METADATA,
    BuiltFor,
    instruction_set,
    offline_name,
    refuse_offline,
    write_offline,
)
from runtime.errors import ProviderError, UsageError
from runtime.hardware import Machine
from runtime.session import GraphOptimization, Session, SessionOptions


@pytest.fixture
def source(conv_graph: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(conv_graph(), path)
    return path


def machine(architecture: str, *flags: str) -> Machine:
    return Machine(
        architecture=architecture, model="m", vendor="v", cpu_count=2, memory_mb=1, cpu_flags=frozenset(flags)
    )


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", ("sse2", "avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni"), "x86_64-avx512-vnni"),
        ("x86_64", ("sse2", "avx", "avx2", "avx512f"), "x86_64-avx512"),
        ("x86_64", ("sse2", "avx", "avx2", "avx_vnni"), "x86_64-avx2-vnni"),
        ("x86_64", ("sse2", "avx", "avx2"), "x86_64-avx2"),
        ("x86_64", ("sse2",), "x86_64-sse"),
        ("aarch64", ("asimd", "asimddp"), "aarch64-dotprod"),
        ("aarch64", ("asimd",), "aarch64-neon"),
        ("riscv64", (), "riscv64-base"),
    ],
)
def test_the_instructions_are_named_by_the_best(architecture: str, flags: tuple[str, ...], expected: str) -> None:
    assert instruction_set(machine(architecture, *flags)) == expected


def test_the_name_says_what_it_is_built_for_once() -> None:
    built_for = BuiltFor(provider="OpenVINOExecutionProvider:CPU", isa="x86_64-avx2", ort="1.32.0")
    name = offline_name(Path("out/model.onnx"), built_for)
    assert name == Path("out/model.OpenVINO-CPU.x86_64-avx2.ort-1.32.0.onnx")
    assert offline_name(name, built_for) == name


def test_it_gives_the_same_without_optimizing_again(source: Path, tmp_path: Path) -> None:
    path, built_for = write_offline(source, "cpu", tmp_path / "out.onnx")
    assert built_for.provider == "CPUExecutionProvider"
    assert built_for.ort == onnxruntime.__version__
    pixels = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    as_written = Session(path, options=SessionOptions(graph_optimization=GraphOptimization.DISABLED))
    np.testing.assert_allclose(as_written.run(pixels)[0], Session(source).run(pixels)[0], rtol=1e-5, atol=1e-6)


def test_the_gate_refuses_it_by_its_metadata(source: Path, tmp_path: Path) -> None:
    path, _ = write_offline(source, "cpu", tmp_path / "out.onnx")
    with pytest.raises(ExportError, match=r"optimized for one kind of machine \(provider CPUExecutionProvider, isa"):
        check_graph(path)
    with pytest.raises(ExportError, match="not portable"):
        write_offline(path, "cpu", tmp_path / "again.onnx")


def test_the_gate_refuses_blocked_layouts_without_metadata(source: Path) -> None:
    model = onnx.load(source)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.domain = "com.microsoft.nchwc"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(ExportError, match=r"com\.microsoft\.nchwc: Conv"):
        refuse_offline(model, "model.onnx")


def test_metadata_of_others_is_no_reason(source: Path) -> None:
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"vedette": "yes", "built_for": "you"})
    onnx.save(model, source)
    assert check_graph(source).batch is None
    onnx.helper.set_model_props(model, {"vedette": "yes", f"{METADATA}isa": "x86_64-avx2"})
    with pytest.raises(ExportError, match=r"optimized for one kind of machine \(isa x86_64-avx2"):
        refuse_offline(model, "model.onnx")


def test_a_provider_that_is_not_here_says_so(source: Path, tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is here")
    with pytest.raises(ProviderError, match="is not installed"):
        write_offline(source, "cuda", tmp_path / "out.onnx")


def test_a_missing_directory_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no directory"):
        write_offline(source, "cpu", tmp_path / "absent" / "out.onnx")


def test_import_refuses_it(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vedette = command_line(capsys)
    code, result, _ = vedette("model", "optimize", source, "--for", "cpu", "--out", tmp_path / "out.onnx", "--json")
    assert code == 0
    written = Path(result["out"])
    assert {one.key: one.value for one in onnx.load(written).metadata_props}[f"{METADATA}isa"] == result["isa"]
    arguments = ("--name", "x", "--task", "classification", "--preprocess", "raw255")
    code, _, error = vedette("model", "import", written, *arguments)
    assert code == 1
    assert "is not portable" in error
