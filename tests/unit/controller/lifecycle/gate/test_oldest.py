"""What is told of an environment that cannot be the oldest one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

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
