"""The search for the first node of a graph whose value is not the source's, where the two share names.

Rules:
    * Two sets of inner values, by the names that they share; each is asked for few values at a time and keeps
      none, so that the search needs no more memory than a run.
    * Only what leads to the output that differs is looked at. A binary search over it, in topological order, ends at
      a value that differs next to one that does not. Where one of the values that this one is made from differs,
      too (it lies on another branch), the search goes on from there.
    * A converter may turn NHWC into NCHW under the same name: either counts as the value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from controller.lifecycle.gate.inner_values import (
    DIFFERS,
    Array,
    GraphValues,
    ancestors,
    producers_of,
    relative_difference,
)
from controller.lifecycle.subgraph import reads

__all__ = ["Divergence", "find_divergence", "share_names"]

CHANNEL_ORDERS = ((0, 3, 1, 2), (0, 2, 3, 1))  # NHWC as NCHW, and the other way round
LISTED = 8  # nodes and values, at most, that an error names of each kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a graph leaves its source.

    Attributes:
        value: The first value that differs.
        node: Name of the node that makes it.
        operator: Of that node.
        inputs: What the node takes, weights too.
        agreeing: The values next before it that agree, or inputs of the graph.
        before: Largest relative difference of those.
        after: Of *value*.
        hidden: Operators between those values and this one, which the source does not show.
        counterpart: What the source calls *value*, where it has another name there.
    """

    value: str
    node: str
    operator: str
    inputs: tuple[str, ...]
    agreeing: tuple[str, ...]
    before: float
    after: float
    hidden: tuple[str, ...] = ()
    counterpart: str | None = None

    def __str__(self) -> str:
        of = f", the source's {self.counterpart!r}, which" if self.counterpart else ", which"
        gives = f"{self.value!r}{of} is off by {self.after:.2g} of its largest element"
        if not self.hidden:
            taken = ", ".join(self.inputs)
            return (
                f"the first node that differs is {self.operator} {self.node!r}: it takes {taken}, which agree within "
                f"{self.before:.2g}, and gives {gives}"
            )
        among = f"one of the {len(self.hidden)} nodes" if len(self.hidden) > 1 else "the node"
        return (
            f"the first node that differs is {self.operator} {self.node!r}, or {among} before it "
            f"({_listed(self.hidden)}): the last to agree are {_listed(self.agreeing)}, within "
            f"{self.before:.2g}, and it gives {gives}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def share_names(ours: GraphValues, theirs: Mapping[str, Array], outputs: Collection[str]) -> bool:
    """Whether *theirs* has values inside the graph, beside its *outputs*, by the names of *ours*."""
    return any(name in ours for name in theirs if name not in outputs)


def _difference(ours: Array, theirs: Array) -> float:
    """Return how far two values are apart, in the order of the axes that suits them best."""
    orders = CHANNEL_ORDERS if ours.ndim == theirs.ndim == 4 else ()
    others = [theirs.transpose(order) for order in orders]
    return min(relative_difference(ours, one) for one in (theirs, *others))


class _Search:
    """Compares values by name, each once, and keeps only how far they are apart."""

    def __init__(self, model: onnx.ModelProto, ours: GraphValues, theirs: Mapping[str, Array]) -> None:
        self.producers = producers_of(model)
        self.order = {name: place for place, name in enumerate(self.producers)}
        self._ours, self._theirs = ours, theirs
        self._known: dict[str, float] = {}

    def difference(self, name: str) -> float:
        if name in self._ours.given:
            return 0.0
        if name not in self._known:
            self._known[name] = _difference(self._ours[name], self._theirs[name])
        return self._known[name]

    def differs(self, name: str) -> bool:
        return self.difference(name) > DIFFERS

    def is_shared(self, name: str) -> bool:
        return name in self.producers and name in self._theirs and name in self._ours

    def shared_before(self, name: str) -> list[str]:
        """Return the shared values that lead to *name*, in topological order."""
        leading = ancestors(self.producers, name) - {name}
        return sorted(filter(self.is_shared, leading), key=self.order.__getitem__)

    def made_from(self, name: str) -> tuple[list[str], list[onnx.NodeProto]]:
        """Return the nearest values that *name* is made from, shared ones or inputs, and the nodes in between."""
        shared = set(self.shared_before(name))
        nearest: dict[str, None] = {}
        between: dict[str, onnx.NodeProto] = {}
        waiting = list(reads(self.producers[name]))
        while waiting:
            value = waiting.pop()
            if value in shared or value in self._ours.given:
                nearest[value] = None
            elif value in self.producers and value not in between:
                between[value] = self.producers[value]
                waiting += reads(self.producers[value])
        return list(nearest), [between[value] for value in sorted(between, key=self.order.__getitem__)]


def find_divergence(
    model: onnx.ModelProto, ours: GraphValues, theirs: Mapping[str, Array], outputs: Collection[str]
) -> Divergence | None:
    """Return the first node of *model* that gives something else than the source.

    Args:
        model: The graph.
        ours: Its values by name.
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
        agreeing=tuple(nearest),
        before=max((search.difference(name) for name in nearest), default=0.0),
        after=search.difference(value),
        hidden=tuple(f"{one.op_type} {one.name!r}" for one in between if one.op_type != "Constant"),
    )
