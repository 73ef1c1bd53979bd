"""A real library of operators that ONNX Runtime does not have: that of `onnxruntime-extensions`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def library_path() -> Path:
    """Return the library's path, without loading it, or skip the test.

    Two copies of it in one process share their globals and crash: load no other one, and do not import the package.
    """
    found = find_spec("onnxruntime_extensions")
    if found is None or found.origin is None:
        pytest.skip("onnxruntime-extensions is not installed")
    (library,) = Path(found.origin).parent.glob("_extensions_pydll*.so")
    return library
