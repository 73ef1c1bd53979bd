"""The `vedette` command in the test's own process: as a user calls it, without the seconds that a new process takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import run_command, vedette

__all__ = ["Command", "command_line"]

Command = Callable[..., tuple[int, Any, str]]


def command_line(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return what runs a `vedette` command: (exit code, stdout, parsed if it is JSON, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            run_command(vedette, "vedette", [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out) if out.startswith(("{", "[")) else out, err

    return run
