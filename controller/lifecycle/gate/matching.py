"""The search for the first node of a graph that gives something else than the source, where the two share no names.

A converter of JAX or scikit-learn names values anew, merges operators and turns axes. What is left are the values.

Rules:
    * A value of the graph agrees if it is one of the source's, in any order of the axes. Values that say nothing (one
      number, all alike, no floating point) and what no input leads to are left out.
    * What a value that agrees is made from is right. The fault is among the other nodes that lead to the output.
    * Which of those, is tried out: a value of the source is put in place of one of the graph's, in topological order.
      Where what follows then agrees, everything behind it is right: the fault is in the node that makes it, or between
      that and the last values that agree. Where the operators behind that node leave the value as it is (Relu of
      what is positive), the last of them counts, since either could be meant.
    * Where no value of the source fits so, all nodes between the last values that agree and the output are suspect.
    * The graph runs in parts of `TOGETHER` values, and at most `TRIALS` times with a value of the source in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import onnx

from controller.lifecycle.gate.divergence import Divergence
from controller.lifecycle.gate.inner_values import (
    DIFFERS,
    Array,
    GraphValues,
    ancestors,
    producers_of,
    relative_difference,
)
from controller.lifecycle.subgraph import reads
from runtime.errors import ModelError

__all__ = ["find_unnamed_divergence"]

TOGETHER = 16  # values of one run
TRIALS = 100  # runs with a value of the source in the graph
PARTNERS = 6  # of the source's values are tried for one of the graph's: the next ones,
NEAREST = 2  # and the nearest ones
AHEAD = 12  # values behind the one that is put in are looked at
MOST_AXES = 4  # of which every order is tried

ARRANGING = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"})
"""Operators that leave the numbers of a value as they are, whatever they are."""


def find_unnamed_divergence(
    model: onnx.ModelProto, ours: GraphValues, theirs: Mapping[str, Array], outputs: Collection[str]
) -> Divergence | None:
    """Return the first node of *model* that gives something else than the source.

    Args:
        model: The graph.
        ours: Its values by name.
        theirs: The source's outputs by their names in the graph, and values inside it in the order in which it
            computes them, by names of its own.
        outputs: Of the graph: those that differ.

    Returns:
        ``None``: none of *outputs* differ.

    Raises:
        ModelError: No value inside the graph is one of the source's, nor fits in place of one.
    """
    for end in outputs:
        if end in theirs and relative_difference(ours[end], theirs[end]) > DIFFERS:
            return _Search(model, ours, theirs, end).result()
    return None


@dataclass(frozen=True, slots=True)
class _Match:
    """Places of the source's values that a value of the graph is, and the least difference from one."""

    places: tuple[int, ...]
    difference: float


class _Source:
    """The values of the source that say something, in its order."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        told = {name: array for name, array in values.items() if _says_something(array)}
        self.names, self.arrays = tuple(told), tuple(told.values())
        self._bounds = [(float(array.min()), float(array.max())) for array in self.arrays]
        self._of_size: dict[int, list[int]] = {}
        for place, array in enumerate(self.arrays):
            self._of_size.setdefault(array.size, []).append(place)

    def of_size(self, size: int) -> Sequence[int]:
        """Return the places of the values of *size* elements."""
        return self._of_size.get(size, ())

    def match(self, value: Array) -> _Match | None:
        """Return which of the values *value* is; ``None``: none, or it says nothing."""
        if not _says_something(value):
            return None
        low, high = float(value.min()), float(value.max())
        found = {}
        for place in self.of_size(value.size):
            least, most = self._bounds[place]
            within = DIFFERS * max(abs(least), abs(most))
            if abs(low - least) <= within and abs(high - most) <= within:
                found[place] = _closest(value, self.arrays[place])[0]
        agreeing = {place: difference for place, difference in found.items() if difference <= DIFFERS}
        return _Match(tuple(agreeing), min(agreeing.values())) if agreeing else None


def _says_something(array: Array) -> bool:
    return (
        np.issubdtype(array.dtype, np.floating)
        and array.size > 1
        and bool(np.isfinite(array).all())
        and float(array.min()) != float(array.max())
    )


def _layouts(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yield *array*, of as many elements, in *shape*: in every order of its axes that leads there, or reshaped."""
    bare, wanted = array.squeeze(), [size for size in shape if size != 1]
    if bare.ndim > MOST_AXES or sorted(bare.shape) != sorted(wanted):
        yield array.reshape(shape)
        return
    for order in permutations(range(bare.ndim)):
        if [bare.shape[axis] for axis in order] == wanted:
            yield bare.transpose(order).reshape(shape)


def _closest(ours: Array, theirs: Array) -> tuple[float, Array]:
    """Return how far *theirs*, of as many elements, is from *ours* in the layout that is nearest, and it in that."""
    pairs = [(relative_difference(ours, laid), laid) for laid in _layouts(theirs, ours.shape)]
    return min(pairs, key=lambda pair: pair[0])


class _Search:
    """Looks for what makes one output differ."""

    def __init__(self, model: onnx.ModelProto, ours: GraphValues, theirs: Mapping[str, Array], end: str) -> None:
        self._ours, self._expected, self._end = ours, theirs[end], end
        self._source = _Source({**{f"input {name!r}": array for name, array in ours.given.items()}, **theirs})
        self._producers = producers_of(model)
        self._leading = self._alive(ancestors(self._producers, end))
        self._matched = dict(self._matches())
        right = set().union(*(ancestors(self._producers, name) for name in self._matched))
        self._suspects = [name for name in self._leading if name not in right]
        self._taken = {place for match in self._matched.values() for place in match.places}
        self._trials = 0

    def _alive(self, among: set[str]) -> list[str]:
        """Return the values *among* all that an input leads to, in topological order."""
        alive = set(self._ours.given)
        for name, node in self._producers.items():
            if not alive.isdisjoint(reads(node)):
                alive.add(name)
        return [name for name in self._producers if name in among and name in alive]

    def _matches(self) -> Iterator[tuple[str, _Match]]:
        inner = [name for name in self._leading if name != self._end]
        for start in range(0, len(inner), TOGETHER):
            for name, value in self._ours.several(inner[start : start + TOGETHER]).items():
                match = self._source.match(value)
                if match is not None:
                    yield name, match

    def result(self) -> Divergence:
        """Return the first node that differs, or the last one with all that are suspect before it.

        Raises:
            ModelError: Nothing fits.
        """
        for name in self._suspects[:-1]:
            found = self._with_partner(name)
            if found is not None:
                return found
        if not self._matched:
            raise ModelError(
                f"its converter names and computes values in another way: of {len(self._leading)} values inside the "
                f"graph, none is one of the {len(self._source.names)} that the source shows"
            )
        return self._said(self._end, relative_difference(self._ours[self._end], self._expected))

    def _with_partner(self, name: str) -> Divergence | None:
        """Return that *name* differs first, if what follows agrees with one of the source's values in its place."""
        value = self._ours[name]
        if not np.issubdtype(value.dtype, np.floating):
            return None
        for place, difference, laid in self._partners(name, value):
            if self._trials == TRIALS:
                return None
            self._trials += 1
            last = self._mended(name, laid.astype(value.dtype), place)
            if last == name:
                return self._said(name, difference, self._source.names[place])
            if last is not None:
                later = _closest(self._ours[last], self._source.arrays[place])[0]
                return self._said(last, later, self._source.names[place])
        return None

    def _partners(self, name: str, value: Array) -> list[tuple[int, float, Array]]:
        """Return the values of the source that could be meant by *name*: place, difference, and it in that layout."""
        before = [self._matched[one] for one in ancestors(self._producers, name) if one in self._matched]
        after = max((min(match.places) for match in before), default=-1)
        places = [place for place in self._source.of_size(value.size) if place > after]
        found = [
            (place, *_closest(value, self._source.arrays[place]))
            for place in sorted(places, key=self._taken.__contains__)
        ]
        near = sorted(found[PARTNERS:], key=lambda one: one[1])[:NEAREST]
        return [*found[:PARTNERS], *near]

    def _mended(self, name: str, put: Array, place: int) -> str | None:
        """Return the last value that then is the source's value *place*, if what follows agrees; ``None`` if not."""
        behind = [one for one in self._suspects if one != name and name in ancestors(self._producers, one)]
        looked_at = [*behind[:AHEAD], *([self._end] if self._end not in behind[:AHEAD] else [])]
        try:
            given = self._ours.several(looked_at, {name: put})
        except ModelError:  # it does not fit there
            return None
        matches = {one: self._source.match(given[one]) for one in looked_at}
        last, agrees = name, relative_difference(given[self._end], self._expected) <= DIFFERS
        for one, match in matches.items():
            if match is None:
                continue
            if place not in match.places:
                agrees |= max(match.places) > place
            elif self._producers[one].op_type not in ARRANGING:
                last = one
        return last if agrees else None

    def _said(self, name: str, difference: float, counterpart: str | None = None) -> Divergence:
        suspects, node = set(self._suspects), self._producers[name]
        agreeing: dict[str, None] = {}
        between: set[str] = set()
        seen: set[str] = set()
        waiting = list(reads(node))
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self._matched or value in self._ours.given:
                agreeing[value] = None
            elif value in self._producers:
                between |= {value} & suspects
                waiting += reads(self._producers[value])
        hidden = [self._producers[value] for value in self._suspects if value in between]
        return Divergence(
            value=name,
            node=node.name or name,
            operator=node.op_type,
            inputs=tuple(one for one in node.input if one),
            agreeing=tuple(agreeing),
            before=max((self._matched[one].difference for one in agreeing if one in self._matched), default=0.0),
            after=difference,
            hidden=tuple(f"{one.op_type} {one.name!r}" for one in hidden),
            counterpart=counterpart,
        )
