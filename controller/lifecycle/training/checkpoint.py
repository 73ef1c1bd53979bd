"""Checkpoints: everything that the next epoch depends on, in one atomic file.

Rules:
    * A checkpoint is whole or absent: it replaces its predecessor in one durable step.
    * Files are read with ``weights_only``: a checkpoint holds tensors and plain values, and can run no code.
    * A run goes on only with the configuration and the data that it began with.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from controller.errors import TrainingError
from runtime.errors import UsageError
from runtime.files import replace_bytes

__all__ = ["Checkpoint", "load_weights", "save_weights"]


def _write(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_bytes(path, buffer.getvalue())


def _read(path: Path) -> dict[str, Any]:
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


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the state dict *weights* to *path*, atomically."""
    _write(path, weights)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in *path*, on the CPU.

    Raises:
        TrainingError: The file is absent or not a checkpoint.
    """
    return _read(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a run after an epoch.

    The learning rate is a function of the step, and the order and augmentation of an epoch one of
    seed and epoch: neither has a state of its own. The generators' states are for what the model
    draws itself (dropout).
    """

    identity: dict[str, Any]  # configuration and data fingerprints, which must not change
    epochs_done: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    generators: list[Tensor]  # CPU, then each CUDA device
    best: dict[str, Any] | None  # `BestEpoch` as plain values
    best_sha256: str | None  # of the file of the best weights
    history: list[dict[str, float]]  # one object per epoch done

    def save(self, path: Path) -> None:
        """Write the checkpoint to *path*, atomically."""
        _write(path, {name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the checkpoint in *path*.

        Raises:
            TrainingError: It is absent, corrupt, or not a checkpoint of this kind.
        """
        content = _read(path)
        if set(content) != set(cls.__slots__):
            raise TrainingError(f"{path} is no checkpoint of a run; it holds {', '.join(sorted(map(str, content)))}")
        return cls(**content)

    def check_identity(self, identity: dict[str, Any]) -> None:
        """See that the run is resumed as it was begun.

        Raises:
            UsageError: It is not; the text names what differs.
        """
        changed = [
            f"{name} was {self.identity.get(name)!r} and is {value!r}"
            for name, value in identity.items()
            if self.identity.get(name) != value
        ]
        if changed:
            raise UsageError(f"cannot resume: {'; '.join(changed)}; use the same options, or another --out")
