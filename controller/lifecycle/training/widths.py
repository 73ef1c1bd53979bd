"""The widths of a network that is no longer as its factory makes it: read off, written down, given to a new one.

Rules:
    * What is written down is plain numbers: by module, those of its own attributes that changed (``out_channels``,
      ``num_features``, ``groups``, ...). The shapes of the weights follow from the weights.
    * Only whole numbers, or tuples of them, that a module has already are ever set: a file can run no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from controller.errors import TrainingError

__all__ = ["Widths", "changed_widths", "resize"]

Widths = Mapping[str, Mapping[str, int | tuple[int, ...]]]
"""By name of a module: its attributes."""


def _is_width(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_width, value))
    return isinstance(value, int) and not isinstance(value, bool)


def changed_widths(before: nn.Module, after: nn.Module) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Return what *after* has in other numbers than *before*, a model of the same modules."""
    modules = dict(before.named_modules())
    found = {}
    for name, module in after.named_modules():
        old = vars(modules[name])
        changed = {
            key: value for key, value in vars(module).items() if key in old and _is_width(value) and value != old[key]
        }
        if changed:
            found[name] = changed
    return found


def resize(model: nn.Module, widths: Widths, state: Mapping[str, Tensor]) -> None:
    """Make *model*, as its factory made it, fit *state*.

    Args:
        model: Is changed; its weights are then to be loaded.
        widths: As `changed_widths` gave it.
        state: The state dict that it is to take.

    Raises:
        TrainingError: The model has no such module, attribute or weight.
    """
    modules = dict(model.named_modules())
    for name, numbers in widths.items():
        module = _found(modules, name, name)
        for key, value in numbers.items():
            if not _is_width(value) or not _is_width(vars(module).get(key)):
                raise TrainingError(f"the pruned model has {key} {value!r} in {name!r}; the architecture has none")
            setattr(module, key, value)
    for name, tensor in state.items():
        owner, _, key = name.rpartition(".")
        _fit(_found(modules, owner, name), key, tensor)


def _found(modules: Mapping[str, nn.Module], name: str, what: str) -> nn.Module:
    if name not in modules:
        raise TrainingError(f"the pruned model has {what!r}; the architecture has no module {name!r}")
    return modules[name]


def _fit(module: nn.Module, key: str, tensor: Tensor) -> None:
    """Give the weight *key* of *module* the shape of *tensor*."""
    held: Any = getattr(module, key, None)
    if not isinstance(held, Tensor) or held.shape == tensor.shape:
        return
    fitting = torch.empty(tensor.shape, dtype=held.dtype, device=held.device)
    if isinstance(held, nn.Parameter):
        setattr(module, key, nn.Parameter(fitting, requires_grad=held.requires_grad))
    else:
        setattr(module, key, fitting)
