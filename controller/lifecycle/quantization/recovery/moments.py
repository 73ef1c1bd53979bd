"""Second moments of what a layer multiplies its weights with: what tells which rounding errors matter.

For weights *w* of one output and inputs *x*, an error *e* of the weights makes the output err by ``e . x``, whose mean
square is ``e' H e`` with ``H = mean(x x')``. A convolution's *x* is a window of its input, as long as its weights.

Rules:
    * Of a large picture, windows at `SIDE` x `SIDE` even places are looked at; they are many enough over the images.
    * One layer's moments are (groups, k, k) numbers: layers of more than `MOST_WEIGHTS` an output are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.layers import Graph, attribute_of

__all__ = ["MOST_WEIGHTS", "Window", "layer_moments", "windows_of"]

SIDE = 12
MOST_WEIGHTS = 2400  # of one output
CONV_RANK, PRODUCT_RANK = 4, 2  # of weights

Doubles = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Taking = Callable[[Array], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution of two dimensions goes over its input; each pair is (rows, columns).

    Attributes:
        kernel: Of the weights.
        strides: From one place to the next.
        dilations: Between the weights.
        pads: Zeros in front.
        ends: Zeros behind.
        groups: Of channels.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    ends: tuple[int, int] = (0, 0)
    groups: int = 1

    @classmethod
    def of(cls, conv: onnx.NodeProto, weight: Sequence[int]) -> Window | None:
        """Return how *conv*, with weights of shape *weight*, goes; ``None`` if it pads as it sees fit."""
        found = {one.name: helper.get_attribute_value(one) for one in conv.attribute}
        if found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            return None
        top, left, bottom, right = found.get("pads", [0] * 4)
        return cls(
            kernel=(weight[2], weight[3]),
            strides=_pair(found.get("strides")),
            dilations=_pair(found.get("dilations")),
            pads=(top, left),
            ends=(bottom, right),
            groups=found.get("group", 1),
        )


def _pair(values: Sequence[int] | None) -> tuple[int, int]:
    return (values[0], values[1]) if values else (1, 1)


def windows_of(values: Array, window: Window) -> Array:
    """Return windows of *values*, at even places: (places, groups, channels of a group * rows * columns).

    Args:
        values: (n, channels, height, width).
        window: How they are taken.
    """
    padded = np.pad(values, ((0, 0), (0, 0), *zip(window.pads, window.ends, strict=True)))
    places = []
    for size, kernel, stride, dilation in zip(
        padded.shape[2:], window.kernel, window.strides, window.dilations, strict=True
    ):
        count = (size - dilation * (kernel - 1) - 1) // stride + 1
        places.append(np.unique(np.linspace(0, count - 1, min(SIDE, count)).round().astype(int)) * stride)
    rows, columns = places
    taken = [
        padded[:, :, rows[:, None] + row * window.dilations[0], columns + column * window.dilations[1]]
        for row in range(window.kernel[0])
        for column in range(window.kernel[1])
    ]  # of (n, channels, rows, columns)
    stacked = np.stack(taken, axis=-1).transpose(0, 2, 3, 1, 4)
    return stacked.reshape(-1, window.groups, stacked.shape[3] // window.groups * stacked.shape[4])


def layer_moments(calibration: Calibration, names: Iterable[str], images: int) -> Mapping[str, Doubles]:
    """Return by name of a layer its moments, (groups, k, k).

    Args:
        calibration: Of the prepared graph.
        names: Of the layers to look at. Those whose windows are not known, and too large ones, are left out.
        images: To look at, at most.

    Raises:
        ModelError: The graph does not run.
        DatasetError: There are not enough usable images.
    """
    graph = Graph.of(calibration.model)
    wanted = set(names)
    takers: dict[str, list[tuple[str, Taking]]] = {}
    for node in graph.layers():
        taking = _taking(graph, node) if node.name in wanted else None
        if taking is not None:
            takers.setdefault(node.input[0], []).append((node.name, taking))
    taps = calibration.taps(calibration.model, list(takers))
    sums: dict[str, Doubles] = {}
    counts: Counter[str] = Counter()
    for batch in calibration.batches(taps.pictures, limit=images):
        for tensor, values in taps.run(batch):
            for name, taking in takers[tensor]:
                taken = taking(values)
                by_group = taken.transpose(1, 2, 0)
                moments = (by_group @ by_group.transpose(0, 2, 1)).astype(np.float64)
                sums[name] = sums[name] + moments if name in sums else moments
                counts[name] += len(taken)
    return {name: total / counts[name] for name, total in sums.items()}


def _taking(graph: Graph, node: onnx.NodeProto) -> Taking | None:
    """Return what makes (places, groups, k) of *node*'s input; ``None`` if it is not known, or has too many weights."""
    shape = graph.constants[node.input[1]].dims
    if node.op_type == "Conv" and len(shape) == CONV_RANK and shape[1] * shape[2] * shape[3] <= MOST_WEIGHTS:
        window = Window.of(node, shape)
        return None if window is None else partial(windows_of, window=window)
    is_product = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute_of(node, "transA", 0))
    return _rows if is_product and len(shape) == PRODUCT_RANK and max(shape) <= MOST_WEIGHTS else None


def _rows(values: Array) -> Array:
    """Return rows of *values* (n, ..., k), at even places: (rows, 1, k)."""
    rows = values.reshape(-1, values.shape[-1])
    most = SIDE * SIDE * len(values)
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)), None, :]
