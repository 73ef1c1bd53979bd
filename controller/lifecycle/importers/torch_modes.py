"""Finds layers that were fixed in training mode when a model was exported or traced, where `eval` no longer reaches.

Dropout would go on dropping, and batch normalization would go on normalizing with the statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.errors import ExportError

__all__ = ["TRAINING_FLAG", "check_eval_mode"]

TRAINING_FLAG: Mapping[str, int] = {
    "dropout": 2,
    "dropout_": 2,
    "alpha_dropout": 2,
    "feature_dropout": 2,
    "feature_alpha_dropout": 2,
    "batch_norm": 5,
}
"""By name of an operator of ``aten``: which of its arguments says whether it trains (native_functions.yaml)."""


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
