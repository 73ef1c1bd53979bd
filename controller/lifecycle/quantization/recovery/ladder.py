"""The rungs of the ladder, cheapest first: each names what it tries, beginning from the best so far.

Rules:
    * A rung that keeps the graph's integer layers costs no speed; one that takes layers out of INT8 does, and its
      result must be measured.
    * Rungs yield attempts; which of them is kept is for `controller.lifecycle.quantization.recovery.search` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import onnx

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.calibration.methods import METHODS
from controller.lifecycle.quantization.cells import in_cells
from controller.lifecycle.quantization.layers import Graph
from controller.lifecycle.quantization.quantize import COMPUTE_OPS, Scheme, quantize
from controller.lifecycle.quantization.recovery.bias import with_corrected_biases
from controller.lifecycle.quantization.recovery.equalize import equalized
from controller.lifecycle.quantization.recovery.rounding import with_rounded_weights
from controller.lifecycle.quantization.recovery.twins import layer_errors

__all__ = ["EXAMINED", "RUNGS", "Attempt", "Rung"]

PRODUCTS = frozenset({"MatMul", "Gemm"})
EXAMINED = 64  # images that layers are looked at with
MOST_LAYERS = 16  # that go back to fp32
SHARES = (0.7, 0.5)  # of activations in equalization: the rounding of weights, not that of activations, is made up for
ROBUST = ("mse", "percentile")  # methods that an equalized graph, which has no outliers of one channel, is tried with


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way to quantize.

    Attributes:
        what: In words.
        calibration: Of the graph to quantize, which may be an equalized one.
        scheme: How.
        method: Of the ranges.
        corrected: Whether biases are corrected.
        rounded: The calibration's graph with its weights on the grids of the scheme; ``None``: the quantizer rounds.
    """

    what: str
    calibration: Calibration
    scheme: Scheme
    method: str
    corrected: bool = False
    rounded: onnx.ModelProto | None = None

    def build(self) -> onnx.ModelProto:
        """Return the quantized graph as it is published: what `quantized` returns, faster.

        Raises:
            ExportError: ONNX Runtime cannot quantize it, or a value has no range.
            ModelError: A graph does not run.
            DatasetError: There are not enough usable images.
        """
        return in_cells(self.quantized())

    def quantized(self) -> onnx.ModelProto:
        """Return the quantized graph, each layer as large as the original's.

        Raises:
            ExportError: ONNX Runtime cannot quantize it, or a value has no range.
            ModelError: A graph does not run.
            DatasetError: There are not enough usable images.
        """
        model = self.rounded or self.calibration.model
        ranges = self.calibration.ranges(self.method, symmetric=self.scheme.symmetric)
        quantized = quantize(model, ranges, self.scheme)
        if not self.corrected:
            return quantized
        errors = layer_errors(self.calibration, quantized, EXAMINED)
        return quantize(with_corrected_biases(model, errors), ranges, self.scheme)


@dataclass(frozen=True, slots=True)
class Rung:
    """A row of the ladder.

    Attributes:
        name: In words.
        attempts: Yields what is tried, given the best so far.
        costs_speed: Whether what it does makes the graph slower.
        changes_method: Whether all that it does is to choose another method of calibration.
    """

    name: str
    attempts: Callable[[Attempt], Iterator[Attempt]]
    costs_speed: bool = False
    changes_method: bool = False


def _per_channel(best: Attempt) -> Iterator[Attempt]:
    if not best.scheme.per_channel:
        yield replace(best, what="a scale for each channel", scheme=replace(best.scheme, per_channel=True))


def _methods(best: Attempt) -> Iterator[Attempt]:
    for method in METHODS:
        if method != best.method:
            yield replace(best, what=method, method=method)


def _operators(best: Attempt) -> Iterator[Attempt]:
    scheme = replace(best.scheme, op_types=best.scheme.op_types & COMPUTE_OPS)
    operators = {node.op_type for node in best.calibration.model.graph.node}
    if PRODUCTS & operators:
        floats = replace(scheme, float_outputs=best.scheme.float_outputs | PRODUCTS)
        yield replace(best, what="convolutions and products, what products give in fp32", scheme=floats)
    if (best.scheme.op_types - COMPUTE_OPS) & operators:
        yield replace(best, what="convolutions and products only", scheme=scheme)


def _ends(best: Attempt) -> Iterator[Attempt]:
    graph = Graph.of(best.calibration.model)
    first, last = graph.ends()
    for what, layers in (("last layers in fp32", last), ("first layers in fp32", first), ("both", [*first, *last])):
        yield _without(best, what, graph.with_activations(layers))


def _worst_layers(best: Attempt) -> Iterator[Attempt]:
    graph = Graph.of(best.calibration.model)
    errors = layer_errors(best.calibration, best.quantized(), EXAMINED)
    ranked = [error.node for error in sorted(errors, key=lambda error: error.sqnr)]
    by_name = {node.name: node for node in graph.layers()}
    count = 1
    while count <= min(MOST_LAYERS, len(ranked) - 1):
        worst = graph.with_activations(by_name[name] for name in ranked[:count] if name in by_name)
        yield _without(best, f"{count} of {len(ranked)} layers in fp32", worst)
        count *= 2


def _without(best: Attempt, what: str, names: frozenset[str]) -> Attempt:
    return replace(best, what=what, scheme=replace(best.scheme, exclude=best.scheme.exclude | names))


def _bias(best: Attempt) -> Iterator[Attempt]:
    yield replace(best, what="mean errors taken off", corrected=True)


def _equalization(best: Attempt) -> Iterator[Attempt]:
    for share in SHARES:
        fresh = equalized(best.calibration, EXAMINED, share)
        if fresh is best.calibration.model:
            return
        calibration = best.calibration.of(fresh)
        for method in dict.fromkeys((*ROBUST, best.method)):  # the channels are others: what was chosen need not fit
            what = f"{method}, activations' share {share:g}, biases corrected"
            yield replace(best, what=what, calibration=calibration, method=method, corrected=True)


def _rounding(best: Attempt) -> Iterator[Attempt]:
    rounded = with_rounded_weights(best.calibration, best.scheme, EXAMINED)
    if rounded is not best.calibration.model:
        yield replace(best, what="weights make up for one another, biases corrected", rounded=rounded, corrected=True)


RUNGS: tuple[Rung, ...] = (
    Rung("per-channel weights", _per_channel),
    Rung("calibration method", _methods, changes_method=True),
    Rung("operators", _operators, costs_speed=True),
    Rung("ends and heads", _ends, costs_speed=True),
    Rung("worst layers", _worst_layers, costs_speed=True),
    Rung("bias correction", _bias),
    Rung("equalization", _equalization),
    Rung("rounding", _rounding),
)
"""Batch normalization is folded before the first: see `controller.lifecycle.quantization.quantize.prepare`."""
