"""Reads a state dict, and puts it into a model that it must fit exactly.

Rules:
    * A pickle is read with ``weights_only``: it holds tensors and plain values, and can run no code.
    * A checkpoint may wrap the state dict (`WRAPPERS`), and its keys may carry a prefix that a trainer put there
      (`PREFIXES`): what fits the model best is taken.
    * Nothing is left out and nothing is guessed: what is missing, unexpected or of another shape is listed.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from controller.errors import ExportError
from runtime.errors import UsageError

__all__ = ["load_into", "read_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params", "ema", "model_ema")
PREFIXES = ("", "module.", "model.", "net.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
COUNTER = "num_batches_tracked"  # of batch normalization; older checkpoints lack it, and eval mode reads it nowhere
SCALAR: Any = np.float64(0).__reduce__()[0]
PLAIN: tuple[Any, ...] = (Namespace, np.dtype, SCALAR, *(type(np.dtype(code)) for code in "fdilq?"))
"""What trainers leave beside the weights: parsed options and NumPy's scalars. None of it runs code of the file's."""
LISTED = 5  # names that an error shows at most

Weights = Mapping[str, torch.Tensor]


def read_weights(path: Path) -> Any:
    """Return what the file at *path* holds.

    Raises:
        UsageError: It does not exist, or nothing here reads it.
        ExportError: It holds something else than tensors and plain values, or is damaged.
    """
    if not path.is_file():
        raise UsageError(f"--weights {path} is no file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals([*PLAIN]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(
            f"{path} does not hold weights alone, and nothing else is loaded, since it could run code: {reason}; save "
            "model.state_dict()"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ExportError(f"{path} holds no weights: {str(error).partition(chr(10))[0]}") from None


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise UsageError(f"{path} needs a package that is not installed: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ExportError(f"{path} is no safetensors file: {error}") from None


def load_into(model: nn.Module, path: Path) -> None:
    """Load the weights in the file *path* into *model*.

    Raises:
        UsageError: There is no such file, or nothing here reads it.
        ExportError: It holds no state dict, or one of another model; the text lists what differs.
    """
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    found = list(_state_dicts(read_weights(path)))
    if not found:
        raise ExportError(
            f"{path} holds no state dict; expected names with tensors, alone or under {', '.join(WRAPPERS)}"
        )
    candidates = [_without(prefix, weights) for weights in found for prefix in PREFIXES]
    best = max(candidates, key=lambda weights: _fitting(weights, wanted))
    if differences := _differences(best, wanted):
        raise ExportError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(differences)}; expected the state dict of just "
            "such a model: name the factory that made it, with its number of classes, or save "
            "model.state_dict() of the whole model"
        )
    model.load_state_dict(dict(best), strict=False)


def _state_dicts(content: Any) -> Iterator[Weights]:
    """Yield the mappings of names to tensors in *content*, the outermost first."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield tensors
    for name in WRAPPERS:
        yield from _state_dicts(content.get(name))


def _without(prefix: str, weights: Weights) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _fitting(weights: Weights, wanted: Weights) -> int:
    return sum(name in wanted and value.shape == wanted[name].shape for name, value in weights.items())


def _differences(weights: Weights, wanted: Weights) -> list[str]:
    missing = [name for name in wanted if name not in weights and not name.endswith(COUNTER)]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [_listed(kind, names) for kind, names in kinds.items() if names]


def _listed(kind: str, names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:LISTED])}{rest})"
