"""Finds layers that were fixed in training mode when a model was exported or traced, where `eval` no longer reaches.

Dropout would go on dropping, and batch normalization would go on normalizing with the statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from controller.errors import ExportError

__all__ = ["MODE", "check_eval_mode", "is_training"]

MODE: Mapping[str, int] = {
    "dropout": 2,
    "dropout_": 2,
    "alpha_dropout": 2,
    "feature_dropout": 2,
    "feature_alpha_dropout": 2,
    "batch_norm": 5,
}
"""By name of an operator of ``aten``: which of its arguments says whether it trains (native_functions.yaml)."""
SHARE = 1  # the argument of a dropout that says how much of its input it drops


def is_training(name: str, arguments: Sequence[object]) -> bool:
    """Whether the operator *name* of ``aten`` with *arguments* is fixed in training mode.

    A dropout of nothing, which attention has in eval mode, is not; neither is a mode that is no constant.
    """
    place = MODE.get(name)
    if place is None or len(arguments) <= place or arguments[place] is not True:
        return False
    return "dropout" not in name or arguments[SHARE] not in {0.0, None}


def check_eval_mode(source: str, training: Iterable[str], how: str) -> None:
    """See that no layer of *source* is fixed in training mode.

    Args:
        source: In words.
        training: Operators that are.
        how: To make it again.

    Raises:
        ExportError: There are such; the text counts them.
    """
    names = list(training)
    if names:
        counted = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        raise ExportError(
            f"{source} was made in training mode and cannot be put into eval mode any more ({counted}); call "
            f"model.eval() and {how} again"
        )
