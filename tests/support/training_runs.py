"""Small training runs on real digits: asked for with a module of the user's own, and cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from controller.lifecycle.training.record import TrainingConfig

__all__ = ["Configure", "configures", "interrupted"]

Configure = Callable[..., TrainingConfig]
"""From a name of the run's directory, and options, to what is asked for."""


def configures(directory: Path, module: str, text: str, data: Path, **defaults: Any) -> Configure:
    """Write the user's own *module*, and return what asks for runs in *directory* on *data*.

    Args:
        directory: Must be on the path where modules are found.
        module: Name of the module.
        text: What is in it.
        data: To train on.
        defaults: Options, where a test gives no others.
    """
    (directory / f"{module}.py").write_text(text)

    def make(out: str = "run", **changes: Any) -> TrainingConfig:
        return TrainingConfig(**{"data": str(data), **defaults, **changes, "out": directory / out})

    return make


@contextmanager
def interrupted(target: type, method: str, call: int) -> Iterator[None]:
    """Expect that what is done within ends by Ctrl-C, in the *call*-th call (from 1) of *method* of *target*."""
    real, calls = getattr(target, method), iter(range(1, call + 1))

    def until(*arguments: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    with mock.patch.object(target, method, until), pytest.raises(KeyboardInterrupt):
        yield
