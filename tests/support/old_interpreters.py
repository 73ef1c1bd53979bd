"""Stands for an environment of an older ONNX Runtime, without one."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["refusing_interpreter"]


def refusing_interpreter(directory: Path) -> Path:
    """Write an interpreter that says its version of ONNX Runtime, 1.0.0, and loads no graph."""
    path = directory / "refusing-python"
    path.write_text(
        "#!/bin/sh\n"
        '[ $# -gt 2 ] && { echo \'{"version": "1.0.0", "error": "it is too old"}\'; exit 1; }\n'
        f'"{sys.executable}" "$@" | sed "s/[0-9.]*[0-9]/1.0.0/"\n'
    )
    path.chmod(0o755)
    return path
