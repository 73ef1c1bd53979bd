"""Whether a graph gives what its source gives for the same input.

Rules:
    * Floating point numbers: an element may be `ABSOLUTE` off. In a large output (one with an element beyond
      `LARGE`: boxes, logits) it may also be `RELATIVE` of itself off, or, where it is small beside the largest element,
      `RELATIVE` of a tenth of that one: a sum of large numbers that cancel keeps their rounding.
    * Integers (class ids, labels): at most `MOST_DIFFERENT` of the elements differ. Where two scores tie, rounding may
      decide either way, and no distance between ids means anything.
    * Sources whose scores jump where float32 rounds (trees, neighbours) are compared by each picture's label alone.
    * NaN and infinity are refused whatever the source gives: no head can use them.
    * A source that answers every picture alike, as far as these limits tell, proves nothing: that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.errors import ParityError

__all__ = [
    "ABSOLUTE",
    "LARGE",
    "MOST_DIFFERENT",
    "RELATIVE",
    "allowed_difference",
    "answers_all_alike",
    "label_difference",
    "output_difference",
]

ABSOLUTE = 1e-4
RELATIVE = 1e-3  # of an element of a large output
LARGE = 1.0
BESIDE = 0.1  # of the largest element: what smaller ones of a large output are taken for
MOST_DIFFERENT = 1e-3  # of the elements
MOST_LABELS = 1e-2  # of the pictures, of a source that is compared by labels

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


def allowed_difference(theirs: Array) -> Doubles:
    """Return how far each element of a floating point output may be from *theirs*, of the same shape."""
    magnitude = np.abs(theirs.astype(np.float64))
    largest = float(np.max(magnitude, initial=0.0))
    if largest <= LARGE:
        return np.full(magnitude.shape, ABSOLUTE)
    return np.maximum(ABSOLUTE, RELATIVE * np.maximum(magnitude, BESIDE * largest))


def output_difference(name: str, count: int, ours: Array, theirs: Array) -> float:
    """Return the largest absolute difference of output *name* from the source; 0 for an integer output.

    Args:
        name: Of the output.
        count: Pictures in the batch.
        ours: What the graph gave.
        theirs: What the source gave.

    Raises:
        ParityError: Shapes differ, a number is not finite, or too much differs.
    """
    if ours.shape != theirs.shape:
        raise ParityError(
            f"output {name!r} has shape {ours.shape} for a batch of {count}; the source gives {theirs.shape}", name
        )
    if np.issubdtype(ours.dtype, np.floating):
        return _float_difference(name, count, ours, theirs)
    share = float(np.mean(ours != theirs)) if ours.size else 0.0
    if share > MOST_DIFFERENT:
        raise ParityError(
            f"output {name!r} differs from the source in {share:.3%} of its elements for a batch of {count}; at most "
            f"{MOST_DIFFERENT:.1%} is expected of integers",
            name,
        )
    return 0.0


def _float_difference(name: str, count: int, ours: Array, theirs: Array) -> float:
    if not np.isfinite(ours).all():
        raise ParityError(f"output {name!r} holds NaN or infinity for a batch of {count}", name)
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    allowed = allowed_difference(theirs)
    if not (difference <= allowed).all():  # so that a NaN of the source fails
        worst = np.unravel_index(int(np.argmax(difference / allowed)), difference.shape)
        largest = float(np.max(np.abs(theirs), initial=0.0))
        raise ParityError(
            f"output {name!r} differs from the source by {difference[worst]:.3g} for a batch of {count}, where the "
            f"source gives {theirs[worst]:.3g}; at most {allowed[worst]:.3g} is expected (it goes up to {largest:.3g})",
            name,
        )
    return float(np.max(difference, initial=0.0))


def label_difference(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """Return the share of pictures that get another label than the source gives them.

    Args:
        ours: Outputs of the graph for a batch: scores (n, classes), or labels (n,).
        theirs: The source's.

    Raises:
        ParityError: More than `MOST_LABELS` of them do, or the outputs are of other shapes.
    """
    if [one.shape for one in ours] != [other.shape for other in theirs]:
        shapes = " and ".join(", ".join(str(one.shape) for one in outputs) for outputs in (ours, theirs))
        raise ParityError(f"outputs have other shapes than the source's: {shapes}", "")
    share = max((float(np.mean(_labels(a) != _labels(b))) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    if share > MOST_LABELS:
        raise ParityError(
            f"{share:.1%} of the pictures get another label than the source gives them; at most {MOST_LABELS:.0%} is "
            "expected of trees and neighbours, whose scores are not compared",
            "",
        )
    return share


def _labels(output: Array) -> Array:
    return output.argmax(axis=-1) if output.ndim > 1 and np.issubdtype(output.dtype, np.floating) else output


def answers_all_alike(batches: Iterable[Sequence[Array]]) -> bool:
    """Whether a source gives all pictures the same, as far as the limits tell.

    Args:
        batches: Its outputs for each batch. Only outputs of one row a picture count.

    Returns:
        ``False`` also where there are fewer than two pictures to compare.
    """
    compared = [np.concatenate(rows) for rows in zip(*batches, strict=True) if _count_pictures(rows)]
    several = [one.reshape(len(one), -1) for one in compared if len(one) > 1]
    return bool(several) and all(bool((np.abs(one - one[:1]) <= allowed_difference(one[:1])).all()) for one in several)


def _count_pictures(rows: Sequence[Array]) -> bool:
    """Whether *rows*, one output for several batches, are floating point rows of one shape, as many as pictures."""
    first = rows[0]
    return first.ndim > 0 and np.issubdtype(first.dtype, np.floating) and len({one.shape[1:] for one in rows}) == 1
