"""Files of tensors and plain values, as torch writes them.

Rules:
    * A file is whole or absent: it replaces its predecessor in one durable step.
    * Files are read with ``weights_only``: one holds tensors and plain values, and can run no code.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from controller.errors import TrainingError
from runtime.files import replace_bytes

__all__ = ["load_tensors", "save_tensors"]


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write *content*, tensors and plain values in mappings and lists, to *path*, atomically."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    replace_bytes(path, buffer.getvalue())


def load_tensors(path: Path) -> dict[str, Any]:
    """Return what `save_tensors` wrote to *path*, on the CPU.

    Raises:
        TrainingError: The file is absent or none of these.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{path} is absent: the run in {path.parent} has no such checkpoint") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first_line = str(error).partition("\n")[0]
        raise TrainingError(f"{path} is no usable checkpoint: {first_line}") from None
    if not isinstance(content, dict):
        raise TrainingError(f"{path} is no usable checkpoint: it holds a {type(content).__name__}, expected a dict")
    return content
