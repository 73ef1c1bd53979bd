"""What quantization changes in each layer by itself: quantized layers beside their originals, fed with the same input.

Rules:
    * The original graph runs in fp32; each quantized layer is a twin that takes the original's input through the
      quantized graph's own QuantizeLinear and DequantizeLinear, with its integer weights and bias. So one layer's
      error is not that of the layers before it.
    * Both outputs are reduced to sums at once: memory is bounded as in calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.layers import LAYERS, channel_axis
from controller.lifecycle.quantization.sqnr import sqnr_db

__all__ = ["LayerError", "layer_errors", "with_twins"]

TWIN = "twin/"  # names of what is added begin so

Array = npt.NDArray[Any]


@dataclass(slots=True)
class LayerError:
    """How a layer's output differs when it alone is quantized.

    Attributes:
        node: Name of the layer.
        signal: Sum of the squared values of the original.
        noise: Sum of the squared differences.
        shift: float64, (channels,): sum of the differences.
        count: Values of one channel that were summed.
    """

    node: str
    signal: float = 0.0
    noise: float = 0.0
    shift: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, original: Array, twin: Array, axis: int) -> None:
        """Count one batch of outputs, whose channels are at *axis*."""
        difference = twin.astype(np.float64) - original
        self.signal += float(np.sum(np.square(original, dtype=np.float64)))
        self.noise += float(np.sum(np.square(difference)))
        others = tuple(number for number in range(difference.ndim) if number != axis)
        sums = difference.sum(others)
        self.shift = sums if not self.count else self.shift + sums
        self.count += difference.size // max(1, len(sums))

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise, dB."""
        return sqnr_db(self.signal, self.noise)

    @property
    def mean_shift(self) -> npt.NDArray[np.float64]:
        """float64, (channels,): the mean difference."""
        return self.shift / max(1, self.count)


def with_twins(model: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """Return *model* with the quantized layers of *quantized* beside its own, and the nodes that have a twin.

    Args:
        model: Prepared.
        quantized: Made of it.

    Returns:
        A graph where the output *y* of such a node has a twin ``twin/y``, and those nodes.
    """
    computed = {name for node in model.graph.node for name in node.output}
    computed |= {value.name for value in model.graph.input}
    originals = {node.name: node for node in model.graph.node if node.op_type in LAYERS}
    source = _Source(quantized, computed)
    twins = [
        (originals[node.name], node)
        for node in quantized.graph.node
        if node.name in originals and source.is_quantized(node) and all(source.feed(name) for name in node.input)
    ]

    def renamed(name: str) -> str:
        return name if name in computed or not name else f"{TWIN}{name}"

    both = onnx.ModelProto()
    both.CopyFrom(model)
    for node in (*source.added.values(), *(twin for _, twin in twins)):
        copy = both.graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"{TWIN}{node.name}"
        copy.input[:] = [renamed(name) for name in node.input]
        copy.output[:] = [renamed(name) for name in node.output]
    for copy, (original, _) in zip(both.graph.node[len(both.graph.node) - len(twins) :], twins, strict=True):
        copy.output[0] = f"{TWIN}{original.output[0]}"
    for name in source.used:
        constant = both.graph.initializer.add()
        constant.CopyFrom(source.constants[name])
        constant.name = renamed(name)
    known = {opset.domain for opset in both.opset_import}
    both.opset_import.extend(opset for opset in quantized.opset_import if opset.domain not in known)
    return both, [original for original, _ in twins]


class _Source:
    """The quantized graph, and what of it the twins need."""

    def __init__(self, quantized: onnx.ModelProto, computed: set[str]) -> None:
        self.constants = {initializer.name: initializer for initializer in quantized.graph.initializer}
        self.added: dict[str, onnx.NodeProto] = {}
        self.used: set[str] = set()
        self._computed = computed
        self._producers = {name: node for node in quantized.graph.node for name in node.output}

    def is_quantized(self, node: onnx.NodeProto) -> bool:
        """Whether *node*'s weights are integers; its input may be rounded for the sake of others."""
        maker = self._producers.get(node.input[1])
        return maker is not None and maker.op_type == "DequantizeLinear"

    def feed(self, name: str) -> bool:
        """Add what makes *name* of constants and of the original's tensors; tell whether that can be done."""
        if name in self.constants:
            self.used.add(name)
            return True
        node = self._producers.get(name)
        if node is None or node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            return not name or name in self._computed
        if node.name not in self.added:
            if not all(self.feed(taken) for taken in node.input):
                return False
            self.added[node.name] = node
        return True


def layer_errors(
    calibration: Calibration,
    quantized: onnx.ModelProto,
    images: int,
    advance: Callable[[int], object] = lambda _: None,
) -> list[LayerError]:
    """Return the error of each quantized layer, in the graph's order.

    Args:
        calibration: Of the prepared graph that *quantized* was made of.
        quantized: The graph.
        images: To look at, at most.
        advance: Is told how many more images are done.

    Raises:
        ModelError: ONNX Runtime does not run it.
        DatasetError: There are not enough usable images.
    """
    both, nodes = with_twins(calibration.model, quantized)
    if not nodes:
        return []
    names = [name for node in nodes for name in (node.output[0], f"{TWIN}{node.output[0]}")]
    taps = calibration.taps(both, names)
    errors = {node.output[0]: (node, LayerError(node.name)) for node in nodes}
    for batch in calibration.batches(taps.pictures, limit=images):
        original: Array | None = None
        for name, values in taps.run(batch):
            if original is None:
                original = values
                continue
            node, error = errors[name.removeprefix(TWIN)]
            error.add(original, values, channel_axis(node, values.ndim))
            original = None
        advance(len(batch))
    return [error for _, error in errors.values()]
