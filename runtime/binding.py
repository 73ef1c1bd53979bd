"""Runs of a session whose tensors live on the device: bound for each shape, and used again.

Rules:
    * An input is copied into a buffer that stays (`OrtValue.update_inplace`), never allocated anew.
    * An output whose shape follows from the inputs' has a buffer that stays; one whose shape depends on
      the data is left for ONNX Runtime to allocate.
    * What is returned is the caller's own copy: the next run writes into the buffers again.
    * `BoundRuns.slots` batches are on the device at a time, each with buffers of its own: while one runs, the
      next is copied there, and what came of the one before is copied back. They run one after the other.
    * At most `MOST_SHAPES` shapes are kept; the one that was not used for longest goes first.

What the overlap stands on, in ONNX Runtime's Python API: `run_with_iobinding` lets go of the GIL (its pull request
11248), and the CUDA EP launches on streams of its own that do not wait for the default one, on which
`update_inplace` and `OrtValue.numpy` copy (`cudaMemcpy`). A copy blocks its caller and holds the GIL, so the two
batches are two threads of the caller. There is no asynchronous run with bindings: `run_async` takes arrays.

Captured graphs (CUDA graphs): a replay reads and writes the addresses of the capture, may not be called by
two threads at a time (issue 18509), and the CUDA EP keeps graph and stream by thread. So they run in one thread of
their own; each slot is a graph with a number of its own (run option ``gpu_graph_id``) where the EP keeps several, and
there is one slot where it keeps one (TensorRT).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtime.manifest import Tensor

__all__ = ["SLOTS", "BoundRuns", "output_shapes"]

MOST_SHAPES = 4
SLOTS = 2  # one runs, one is on its way
GRAPH_ID = "gpu_graph_id"  # kOrtRunOptionsConfigCudaGraphAnnotation; 0 is ONNX Runtime's own

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
    """What is bound for one shape of the inputs, in one slot."""

    binding: Any
    buffers: Mapping[str, Any]  # of the inputs
    free: tuple[str, ...]  # outputs whose shape depends on the data
    options: Any  # of its runs; None: ONNX Runtime's defaults


class BoundRuns:
    """Runs of *session* with tensors in the memory *device*; `run` may be called by several threads.

    Args:
        session: An `onnxruntime.InferenceSession`.
        inputs: What the graph takes.
        outputs: What it gives.
        device: Where its EP keeps tensors, as `OrtValue` calls it: ``cuda``, or ``cpu``.
        graphs: How many captured graphs its EP keeps; ``None``: none is captured.

    Attributes:
        slots: How many batches are on the device at a time.
    """

    def __init__(
        self,
        session: Any,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        device: str,
        *,
        graphs: int | None = None,
    ) -> None:
        self.slots = SLOTS if graphs is None else min(SLOTS, graphs)
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._device = device
        self._unused: OrderedDict[Key, list[_Bound]] = OrderedDict()
        self._lock = threading.Lock()  # of the line above
        self._room = threading.BoundedSemaphore(self.slots)
        self._turn = threading.Lock()
        self._launcher = None if graphs is None else ThreadPoolExecutor(1, thread_name_prefix="graph")
        self._numbers = count(1) if graphs is not None and graphs > 1 else None

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs for *feeds*, in the graph's order; arrays of the caller's own.

        Raises:
            Exception: ONNX Runtime's own, for what does not fit.
        """
        contiguous = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        with self._room, self._borrowed(contiguous) as bound:
            for name, buffer in bound.buffers.items():
                buffer.update_inplace(contiguous[name])
            for name in bound.free:
                bound.binding.bind_output(name, self._device)  # else the last run's array would be written into
            with self._turn:
                if self._launcher is None:
                    self._launch(bound)
                else:
                    self._launcher.submit(self._launch, bound).result()
            return [_own(value) for value in bound.binding.get_outputs()]

    def _launch(self, bound: _Bound) -> None:
        bound.binding.synchronize_inputs()
        self._session.run_with_iobinding(bound.binding, bound.options)
        bound.binding.synchronize_outputs()

    @contextmanager
    def _borrowed(self, feeds: Mapping[str, Array]) -> Generator[_Bound, None, None]:
        """Have what is bound for the shapes of *feeds* and in use by nobody else."""
        key = tuple(sorted((name, value.shape) for name, value in feeds.items()))
        with self._lock:
            unused = self._unused.get(key)
            bound = unused.pop() if unused else None
        bound = bound or self._bind(feeds)
        try:
            yield bound
        finally:
            with self._lock:
                self._unused.setdefault(key, []).append(bound)
                self._unused.move_to_end(key)
                if len(self._unused) > MOST_SHAPES:
                    self._unused.popitem(last=False)

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
        return _Bound(binding=binding, buffers=buffers, free=free, options=self._options())

    def _options(self) -> Any:
        """Return the options of a slot's runs: the next number of a graph, where the EP keeps several."""
        if self._numbers is None:
            return None
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH_ID, str(next(self._numbers)))
        return options


def _own(value: Any) -> Array:
    """Return *value* as an array that no run writes into: of the CPU's memory ONNX Runtime shows the buffer."""
    found: Array = value.numpy()
    return found.copy() if value.device_name().lower() == "cpu" else found
