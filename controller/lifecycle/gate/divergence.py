"""The search for the first node of a graph whose value is not the source's.

Rules:
    * Two sets of inner values, by the names that they share; each is asked for few values at a time and keeps
      none, so that the search needs no more memory than a run.
    * Only what leads to the output that differs is looked at. A binary search over it, in topological order, ends at
      a value that differs next to one that does not. Where one of the values that this one is made from differs,
      too (it lies on another branch), the search goes on from there.
    * Values are compared relative to their own largest element: inside a graph there are no units.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from controller.lifecycle.subgraph import ending_with, reads
from runtime.errors import ModelError

__all__ = ["Divergence", "GraphValues", "find_divergence", "relative_difference"]

DIFFERS = 1e-4  # of the largest element
SMALLEST = 1e-12  # magnitude that counts as something

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a graph leaves its source.

    Attributes:
        value: The first value that differs.
        node: Name of the node that makes it.
        operator: Of that node.
        inputs: What the node takes, weights too.
        before: Largest relative difference of the values that it is made from.
        after: Of *value*.
        hidden: Operators between those values and this one, which the source does not show.
    """

    value: str
    node: str
    operator: str
    inputs: tuple[str, ...]
    before: float
    after: float
    hidden: tuple[str, ...] = ()

    def __str__(self) -> str:
        among = f", or one of the {len(self.hidden)} nodes before it ({', '.join(self.hidden)})" if self.hidden else ""
        return (
            f"the first node that differs is {self.operator} {self.node!r}{among}: it takes {', '.join(self.inputs)}, "
            f"which agree within {self.before:.2g}, and gives {self.value!r}, which is off by {self.after:.2g} of its "
            "largest element"
        )


class GraphValues(Mapping[str, Array]):
    """Values inside a graph for one batch: each is computed when it is asked for, by the nodes that lead to it."""

    def __init__(self, model: onnx.ModelProto, given: Mapping[str, Array], libraries: Iterable[str] = ()) -> None:
        """Look at *model*.

        Args:
            model: With its weights in it.
            given: Its inputs by name.
            libraries: Paths of operators' libraries that it needs.
        """
        self._model = model
        self._given = given
        self._libraries = tuple(libraries)
        self._producers = _producers(model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._producers)

    def __len__(self) -> int:
        return len(self._producers)

    def __contains__(self, name: object) -> bool:
        return name in self._producers

    def __getitem__(self, name: str) -> Array:
        part = ending_with(self._model, [onnx.ValueInfoProto(name=name)])
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # what fails is in the exception
        try:
            for library in self._libraries:
                options.register_custom_ops_library(library)
            session = onnxruntime.InferenceSession(
                part.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
            )
            taken = {value.name for value in session.get_inputs()}
            return np.asarray(session.run(None, {key: self._given[key] for key in self._given if key in taken})[0])
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise ModelError(f"value {name!r} cannot be computed: {' '.join(str(error).split())[:300]}") from error


def _producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each value, in the graph's order, which is topological."""
    return {output: node for node in model.graph.node for output in node.output if output}


def _ancestors(producers: Mapping[str, onnx.NodeProto], name: str) -> set[str]:
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


class _Search:
    """Compares values by name, each once, and keeps only how far they are apart."""

    def __init__(self, model: onnx.ModelProto, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> None:
        self.producers = _producers(model)
        self.order = {name: place for place, name in enumerate(self.producers)}
        self._ours, self._theirs = ours, theirs
        self._known: dict[str, float] = {}

    def difference(self, name: str) -> float:
        if name not in self._known:
            self._known[name] = relative_difference(self._ours[name], self._theirs[name])
        return self._known[name]

    def differs(self, name: str) -> bool:
        return self.difference(name) > DIFFERS

    def is_shared(self, name: str) -> bool:
        return name in self.producers and name in self._theirs and name in self._ours

    def shared_before(self, name: str) -> list[str]:
        """Return the shared values that lead to *name*, in topological order."""
        leading = _ancestors(self.producers, name) - {name}
        return sorted(filter(self.is_shared, leading), key=self.order.__getitem__)

    def made_from(self, name: str) -> tuple[list[str], list[onnx.NodeProto]]:
        """Return the nearest shared values that *name* is made from, and the nodes in between."""
        shared = set(self.shared_before(name))
        nearest: dict[str, None] = {}
        between: dict[str, onnx.NodeProto] = {}
        waiting = list(reads(self.producers[name]))
        while waiting:
            value = waiting.pop()
            if value in shared:
                nearest[value] = None
            elif value in self.producers and value not in between:
                between[value] = self.producers[value]
                waiting += reads(self.producers[value])
        return list(nearest), [between[value] for value in sorted(between, key=self.order.__getitem__)]


def find_divergence(
    model: onnx.ModelProto, ours: Mapping[str, Array], theirs: Mapping[str, Array], outputs: Collection[str]
) -> Divergence | None:
    """Return the first node of *model* that gives something else than the source.

    Args:
        model: The graph.
        ours: Its values by name (`GraphValues`).
        theirs: The source's values, by the names that they have in the graph; some suffice.
        outputs: Of the graph: those that differ.

    Returns:
        ``None``: none of the values that can be compared differ.
    """
    search = _Search(model, ours, theirs)
    current = next(iter(_differing_ends(search, outputs)), None)
    while current is not None:
        found = _first_of_search(search, current)
        nearest, between = search.made_from(found)
        worse = [name for name in nearest if search.differs(name)]
        if not worse:
            return _said(search, found, nearest, between)
        current = min(worse, key=search.order.__getitem__)
    return None


def _differing_ends(search: _Search, outputs: Collection[str]) -> Iterator[str]:
    """Yield what the search may start from: those of *outputs*, or the shared values next to them, that differ."""
    for output in outputs:
        ends = [output] if search.is_shared(output) else search.made_from(output)[0]
        yield from (name for name in ends if search.differs(name))


def _first_of_search(search: _Search, end: str) -> str:
    """Return a value that differs and lies, among those that lead to *end*, right behind one that does not."""
    candidates: Sequence[str] = search.shared_before(end)
    agrees, differs = -1, len(candidates)
    while differs - agrees > 1:
        middle = (agrees + differs) // 2
        if search.differs(candidates[middle]):
            differs = middle
        else:
            agrees = middle
    return end if differs == len(candidates) else candidates[differs]


def _said(search: _Search, value: str, nearest: Sequence[str], between: Sequence[onnx.NodeProto]) -> Divergence:
    node = search.producers[value]
    return Divergence(
        value=value,
        node=node.name or value,
        operator=node.op_type,
        inputs=tuple(name for name in node.input if name),
        before=max((search.difference(name) for name in nearest), default=0.0),
        after=search.difference(value),
        hidden=tuple(f"{one.op_type} {one.name!r}" for one in between if one.op_type != "Constant"),
    )
