"""What every place that runs a Vedette model shares.

The names below are loaded when they are first used: the agent's daemon imports this package and
must load neither NumPy nor ONNX Runtime.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.artifact import Artifact
    from runtime.manifest import Manifest
    from runtime.predictor import Predictor

__all__ = ["Artifact", "Manifest", "Predictor", "__version__"]

try:
    __version__ = version("vedette")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is loaded, which is later

_HOME = {"Artifact": "runtime.artifact", "Manifest": "runtime.manifest", "Predictor": "runtime.predictor"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'runtime' has no attribute {name!r}")
