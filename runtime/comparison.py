"""Whether outputs are the golden ones: pure functions over arrays.

Rules:
    * A float output is compared relative to its own range: ``|found - expected| <= tolerance * max(1,
      max|expected|)``. Boxes in pixels and scores below 1 come out of one graph; one absolute tolerance
      would be blind for the one or too strict for the other. NaN matches nothing but itself.
    * Of an integer, bool or text output at most `DIFFERING` of the elements may differ: an argmax flips
      where two classes are equal. Integers of 8 bits are scores of a quantized graph, unless the head reads
      class ids: they differ where they are further apart than the tolerance allows, of a range of 255.
    * Rows that a graph has ordered by score are compared as sets of rows: see `runtime.rows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.errors import ProviderError
from runtime.manifest import Postprocess
from runtime.rows import Table, match, tables

__all__ = ["DIFFERING", "Difference", "compare"]

DIFFERING: Final = 0.01  # share of elements, or rows
CLASS_IDS: Final = frozenset({"semantic"})  # heads whose integers name classes, however few bits they have

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far outputs are from the golden ones.

    Attributes:
        relative: Largest difference of a float output relative to its range; what the tolerance limits.
        largest: Largest absolute difference of a float output, in that output's own unit.
        differing: Largest share of differing elements of any other output, or of rows without a partner.
        worst: Name of the output with *relative*; empty if there is no float output.
        differs: Name of the output with *differing*.
    """

    relative: float = 0.0
    largest: float = 0.0
    differing: float = 0.0
    worst: str = ""
    differs: str = ""

    def joined(self, other: Difference) -> Difference:
        """Return the worse of both in every respect; NaN is worst."""
        further = other if _is_beyond(other.relative, self.relative) else self
        more = other if other.differing > self.differing else self
        return Difference(
            relative=further.relative,
            largest=other.largest if _is_beyond(other.largest, self.largest) else self.largest,
            differing=more.differing,
            worst=further.worst or self.worst or other.worst,
            differs=more.differs,
        )


def _is_beyond(one: float, other: float) -> bool:
    return not one <= other and not math.isnan(other)


def compare(found: Outputs, expected: Outputs, tolerance: float, postprocess: Postprocess) -> Difference:
    """Return how far *found* is from *expected*.

    Args:
        found: Outputs by name.
        expected: The golden ones, of the same names.
        tolerance: Of the variant, relative.
        postprocess: Says whether rows are ordered by score, and which outputs they are.

    Raises:
        ProviderError: They differ by more than allowed, or in shape; the text says where and by how much.
    """
    wanted, given = tables(expected, postprocess), tables(found, postprocess)
    in_rows = {name for table in wanted for name in table.names}
    steps = 0.0 if postprocess.kind in CLASS_IDS else 255 * tolerance
    plain = (_of_output(name, found[name], expected[name], steps) for name in expected if name not in in_rows)
    difference = _worst([*plain, *_of_tables(given, wanted, tolerance)])
    if not difference.relative <= tolerance:  # so that NaN fails
        raise ProviderError(
            f"output {difference.worst!r} differs from the golden output by {difference.relative:.3g} of its range; "
            f"the tolerance is {tolerance:.3g}"
        )
    if difference.differing > DIFFERING:
        raise ProviderError(
            f"output {difference.differs!r} differs from the golden output in {difference.differing:.1%} of its "
            f"elements or rows; at most {DIFFERING:.0%} may"
        )
    return difference


def _worst(differences: Iterable[Difference]) -> Difference:
    return reduce(Difference.joined, differences, Difference())


def _of_output(name: str, found: Array, expected: Array, steps: float = 0.0) -> Difference:
    """Return how far one output is off; 8-bit integers may be *steps* apart."""
    if found.shape != expected.shape:
        raise ProviderError(f"output {name!r} has shape {found.shape}; the golden one has {expected.shape}")
    if not np.issubdtype(expected.dtype, np.floating):
        differing = found != expected
        if expected.dtype in {np.dtype(np.int8), np.dtype(np.uint8)}:
            differing = np.abs(found.astype(np.int64) - expected.astype(np.int64)) > steps
        return Difference(differing=float(np.mean(differing)) if expected.size else 0.0, differs=name)
    largest = float(np.max(_absolute(found, expected), initial=0.0))
    return Difference(relative=largest / _scale(expected), largest=largest, worst=name)


def _scale(expected: Array) -> float:
    """Return the range of a float output: the largest finite magnitude, and 1 at least."""
    finite = expected[np.isfinite(expected)].astype(np.float64)
    return max(1.0, float(np.max(np.abs(finite), initial=0.0)))


def _absolute(found: Array, expected: Array) -> npt.NDArray[np.float64]:
    """Return the absolute differences; 0 where both are the same infinity, or both no number."""
    with np.errstate(invalid="ignore"):
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return np.where(same, 0.0, difference)


def _of_tables(found: list[Table], expected: list[Table], tolerance: float) -> Iterable[Difference]:
    """Yield the difference of each image's rows, and of what belongs to the rows; an image without rows is none."""
    for one, other in zip_longest(found, expected, fillvalue=Table.empty()):
        matched = match(one, other, tolerance)
        name = (other.names or one.names)[0]
        yield Difference(relative=matched.relative, largest=matched.largest, worst=name)
        yield Difference(differing=matched.lonely, differs=name)
        for rest in other.rest.keys() & one.rest.keys():
            yield _of_output(rest, one.rest[rest][matched.found], other.rest[rest][matched.expected])
