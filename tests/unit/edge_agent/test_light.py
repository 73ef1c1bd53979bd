"""The daemon is light: what it must not load, it does not."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("numpy", "onnxruntime", "cv2", "torch", "ray", "fastapi", "sqlalchemy", "PIL")


def loaded_by(module: str) -> list[str]:
    code = f"import sys, json, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_daemon_loads_nothing_heavy():
    assert loaded_by("edge_agent.agent") == []


def test_the_command_line_loads_nothing_heavy():
    assert loaded_by("edge_agent.cli") == []


def test_the_doctor_loads_nothing_heavy():
    assert loaded_by("edge_agent.doctor") == []


def test_the_test_would_notice():
    assert "numpy" in loaded_by("edge_agent.runner")
