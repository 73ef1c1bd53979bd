"""What is told of an environment that cannot be the oldest one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import command_line
from old_interpreters import refusing_interpreter

from controller.lifecycle.gate.oldest import OldestRuntime
from runtime.errors import UsageError


def test_an_interpreter_that_is_none_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--oldest-ort .*/none: No such file"):
        OldestRuntime.open(tmp_path / "none")
    with pytest.raises(UsageError, match=r"--oldest-ort .*true has no ONNX Runtime; expected an interpreter"):
        OldestRuntime.open(Path("/bin/true"))


def test_an_environment_says_its_version_and_what_may_be_claimed_by_it() -> None:
    here = OldestRuntime.open(Path(sys.executable))
    assert here.claim == f">={here.version.rpartition('.')[0]}"


def test_a_published_model_is_validated_there_too(
    conv_graph: Callable[..., onnx.ModelProto], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vedette = command_line(capsys)
    onnx.save(conv_graph(), tmp_path / "source.onnx")
    how = ("--name", "m", "--task", "classification", "--preprocess", "unit")
    assert vedette("model", "import", tmp_path / "source.onnx", *how)[0] == 0
    here = OldestRuntime.open(Path(sys.executable))
    assert vedette("model", "validate", "m", "--json")[1]["oldest_ort"] is None
    code, found, _ = vedette("model", "validate", "m", "--oldest-ort", sys.executable, "--json")
    assert (code, found["valid"], found["oldest_ort"]) == (0, True, here.version)
    assert (
        f"ONNX Runtime {here.version} gives the same"
        in vedette("model", "validate", "m", "--oldest-ort", sys.executable)[1]
    )
    code, _, err = vedette("model", "validate", "m", "--oldest-ort", refusing_interpreter(tmp_path))
    assert code == 1
    assert "model.fp32.onnx does not run on ONNX Runtime 1.0.0, the oldest that it is to run on: it is too old" in err
