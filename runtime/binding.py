"""Runs of a session whose tensors live on the device: bound once for each shape, and used again.

Rules:
    * An input is copied into a buffer that stays (`OrtValue.update_inplace`), never allocated anew.
    * An output whose shape follows from the inputs' has a buffer that stays; one whose shape depends on
      the data is left for ONNX Runtime to allocate.
    * What is returned is the caller's own copy: the next run writes into the buffers again.
    * One run at a time: buffers are shared by the runs of one shape, and a captured graph has but one.
    * At most `MOST_SHAPES` shapes are kept; the one that was not used for longest goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtime.manifest import Tensor

__all__ = ["BoundRuns", "output_shapes"]

MOST_SHAPES = 4

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Key = tuple[tuple[str, Shape], ...]


def output_shapes(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], given: Mapping[str, Shape]
) -> dict[str, Shape | None]:
    """Return the shape of each output by name; ``None`` for one that does not follow from the shapes *given*.

    Args:
        inputs: Of the graph; a string in a shape is a dimension that has the same size wherever it stands.
        outputs: Of the graph.
        given: The shape of what each input is given, by name.
    """
    sizes: dict[str, int] = {}
    for tensor in inputs:
        pairs = zip(tensor.shape, given[tensor.name], strict=True)
        sizes |= {name: size for name, size in pairs if isinstance(name, str) and name != "?"}
    shapes: dict[str, Shape | None] = {}
    for tensor in outputs:
        known = [size if isinstance(size, int) else sizes.get(size) for size in tensor.shape]
        shapes[tensor.name] = None if None in known else tuple(size for size in known if size is not None)
    return shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """What is bound for one shape of the inputs."""

    binding: Any
    buffers: Mapping[str, Any]  # of the inputs
    free: tuple[str, ...]  # outputs whose shape depends on the data


class BoundRuns:
    """Runs of *session* with tensors in the memory *device*.

    Args:
        session: An `onnxruntime.InferenceSession`.
        inputs: What the graph takes.
        outputs: What it gives.
        device: Where its EP keeps tensors, as `OrtValue` calls it: ``cuda``, or ``cpu``.
    """

    def __init__(self, session: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor], device: str) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._device = device
        self._bound: OrderedDict[Key, _Bound] = OrderedDict()
        self._turn = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs for *feeds*, in the graph's order; arrays of the caller's own.

        Raises:
            Exception: ONNX Runtime's own, for what does not fit.
        """
        contiguous = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        with self._turn:
            bound = self._prepared(contiguous)
            for name, buffer in bound.buffers.items():
                buffer.update_inplace(contiguous[name])
            for name in bound.free:
                bound.binding.bind_output(name, self._device)  # else the last run's array would be written into
            bound.binding.synchronize_inputs()
            self._session.run_with_iobinding(bound.binding)
            bound.binding.synchronize_outputs()
            return [np.array(value.numpy()) for value in bound.binding.get_outputs()]

    def _prepared(self, feeds: Mapping[str, Array]) -> _Bound:
        """Return what is bound for the shapes of *feeds*."""
        key = tuple(sorted((name, value.shape) for name, value in feeds.items()))
        if key not in self._bound:
            self._bound[key] = self._bind(feeds)
            if len(self._bound) > MOST_SHAPES:
                self._bound.popitem(last=False)
        self._bound.move_to_end(key)
        return self._bound[key]

    def _bind(self, feeds: Mapping[str, Array]) -> _Bound:
        binding = self._session.io_binding()
        buffers = {}
        for name, value in feeds.items():
            # a copy: on the CPU the buffer would else be the caller's array itself
            buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(value.copy(), self._device, 0)
            binding.bind_ortvalue_input(name, buffers[name])
        shapes = output_shapes(self._inputs, self._outputs, {name: value.shape for name, value in feeds.items()})
        for tensor in self._outputs:
            shape = shapes[tensor.name]
            if shape is None:
                binding.bind_output(tensor.name, self._device)
                continue
            kind = np.dtype(tensor.dtype)
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, self._device, 0)
            binding.bind_ortvalue_output(tensor.name, value)
        free = tuple(name for name, shape in shapes.items() if shape is None)
        return _Bound(binding=binding, buffers=buffers, free=free)
