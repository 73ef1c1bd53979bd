"""What is inside a classifier of scikit-learn for a batch: what its steps, its parts and its layers give.

Rules:
    * A pipeline gives what each step makes of the rows; a union of transformers what each of them makes; an ensemble
      what its parts decide; a network what its layers give, before and after their activation; a machine of support
      vectors what each pair of classes decides, either way round; any classifier its decisions.
    * skl2onnx's names are its own: a value is named by the way that leads to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._base import ACTIVATIONS

from controller.lifecycle.importers.source import Array

__all__ = ["values_inside"]

Inside = Iterator[tuple[str, Any]]


def values_inside(estimator: Any, rows: Array) -> dict[str, Array]:
    """Return the values inside a fitted *estimator* for *rows* (n, length), floating point, in order."""
    named = {name: np.asarray(value) for name, value in _inside(estimator, rows, type(estimator).__name__)}
    return {name: value for name, value in named.items() if np.issubdtype(value.dtype, np.floating)}


def _inside(estimator: Any, rows: Array, name: str) -> Inside:
    for attribute, look in PARTS.items():
        if hasattr(estimator, attribute):
            yield from look(estimator, rows, name)
    for answer in ("decision_function", "predict_proba"):
        if hasattr(estimator, answer):
            yield f"{name}: {answer}", getattr(estimator, answer)(rows)


def _steps(pipeline: Any, rows: Array, name: str) -> Inside:
    for step, part in pipeline.steps[:-1]:
        if part is not None and part != "passthrough":
            yield from _inside(part, rows, f"{name}: {step}")
            rows = part.transform(rows)
            yield f"{name}: {step}", rows
    step, last = pipeline.steps[-1]
    yield from _inside(last, rows, f"{name}: {step}")


def _transformers(union: Any, rows: Array, name: str) -> Inside:
    for step, part in union.transformer_list:
        if hasattr(part, "transform"):
            yield f"{name}: {step}", part.transform(rows)


def _best(search: Any, rows: Array, name: str) -> Inside:
    yield from _inside(search.best_estimator_, rows, f"{name}: best")


def _ensemble(ensemble: Any, rows: Array, name: str) -> Inside:
    for place, part in enumerate(np.ravel(np.asarray(ensemble.estimators_, dtype=object))):
        if getattr(part, "n_features_in_", None) == rows.shape[1]:
            yield from _inside(part, rows, f"{name}: {place}")


def _layers(network: Any, rows: Array, name: str) -> Inside:
    if not isinstance(network, MLPClassifier):
        return
    hidden = [network.activation] * (network.n_layers_ - 2)
    parts = zip(network.coefs_, network.intercepts_, [*hidden, network.out_activation_], strict=True)
    for place, (weight, bias, activation) in enumerate(parts):
        product = rows @ weight
        yield f"{name}: product {place}", product
        yield f"{name}: layer {place}", product + bias
        rows = product + bias
        ACTIVATIONS[activation](rows)  # in place
        yield f"{name}: {activation} {place}", rows


def _pairs(machine: Any, rows: Array, name: str) -> Inside:
    if getattr(machine, "decision_function_shape", "ovo") != "ovo":
        of_pairs = copy.copy(machine)
        of_pairs.decision_function_shape = "ovo"
        decided = of_pairs.decision_function(rows)
        yield f"{name}: pairs", decided
        yield f"{name}: pairs, their opposite", -decided


PARTS: Mapping[str, Callable[[Any, Array, str], Inside]] = {
    "steps": _steps,
    "transformer_list": _transformers,
    "best_estimator_": _best,
    "estimators_": _ensemble,
    "coefs_": _layers,
    "support_vectors_": _pairs,
}
"""By the attribute that an estimator of that kind has."""
