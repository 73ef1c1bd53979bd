"""What is inside a graph for a batch, and how far two values are apart.

Rules:
    * A value is computed when it is asked for, by the nodes that lead to it; none is kept.
    * Values are compared relative to the source's largest element: inside a graph there are no units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from controller.lifecycle.subgraph import ending_with, reads
from runtime.errors import ModelError

__all__ = ["DIFFERS", "Array", "GraphValues", "ancestors", "producers_of", "relative_difference"]

DIFFERS = 1e-4  # of the largest element
SMALLEST = 1e-12  # magnitude that counts as something

Array = npt.NDArray[Any]


class GraphValues(Mapping[str, Array]):
    """Values inside a graph for one batch: each is computed when it is asked for, by the nodes that lead to it.

    Attributes:
        given: The graph's inputs by name.
    """

    def __init__(self, model: onnx.ModelProto, given: Mapping[str, Array], libraries: Iterable[str] = ()) -> None:
        """Look at *model*.

        Args:
            model: With its weights in it.
            given: Its inputs by name.
            libraries: Paths of operators' libraries that it needs.
        """
        self.given = given
        self._model = model
        self._libraries = tuple(libraries)
        self._producers = producers_of(model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._producers)

    def __len__(self) -> int:
        return len(self._producers)

    def __contains__(self, name: object) -> bool:
        return name in self._producers

    def __getitem__(self, name: str) -> Array:
        return self.several([name])[name]

    def several(self, names: Sequence[str], instead: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Return the values *names*, by one run.

        Args:
            names: Of values that nodes make.
            instead: Values inside the graph that are not to be computed, but to be these.

        Raises:
            ModelError: ONNX Runtime does not compute them.
        """
        put = instead or {}
        taken = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in put.items()
        ]
        part = ending_with(self._model, [onnx.ValueInfoProto(name=name) for name in names], taken)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # what fails is in the exception
        try:
            for library in self._libraries:
                options.register_custom_ops_library(library)
            session = onnxruntime.InferenceSession(
                part.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
            )
            known = {**self.given, **put}
            made = session.run(None, {value.name: known[value.name] for value in session.get_inputs()})
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            said = " ".join(str(error).split())[:300]
            raise ModelError(f"value {', '.join(map(repr, names))} cannot be computed: {said}") from error
        return {name: np.asarray(array) for name, array in zip(names, made, strict=True)}


def producers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each value, in the graph's order, which is topological."""
    return {output: node for node in model.graph.node for output in node.output if output}


def ancestors(producers: Mapping[str, onnx.NodeProto], name: str) -> set[str]:
    """Return the values that lead to *name*, and *name* itself."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        value = waiting.pop()
        if value in found or value not in producers:
            continue
        found.add(value)
        waiting += reads(producers[value])
    return found


def relative_difference(ours: Array, theirs: Array) -> float:
    """Return how far two values are apart: 0 the same, infinite if their shapes differ.

    Numbers: the largest absolute difference by the largest magnitude of *theirs*. Others: the share of the elements.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.size == 0:
        return 0.0
    if not np.issubdtype(theirs.dtype, np.floating):
        return float(np.mean(ours != theirs))
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(one - other))
    finite = np.abs(other[np.isfinite(other)])
    largest = max(float(np.max(finite, initial=0.0)), SMALLEST)
    return float("inf") if not np.isfinite(apart).all() else float(apart.max()) / largest
