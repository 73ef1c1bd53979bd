"""What recognition works with: the evidence, and how a head fits it.

Rules:
    * A rule is a pure function from the `Evidence` to a `Fit`, or to ``None`` where its head does not fit.
    * A rule says how sure it is (`Certainty`); who is surest wins, and a tie is for a person to decide.
    * Every role of the head is bound to an output by name: nothing is left to be guessed where the model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.lifecycle.heads.metadata import Facts

__all__ = ["Certainty", "Evidence", "Fit", "Rule", "Seen"]

Array = npt.NDArray[Any]
EIGHT_BITS = (np.dtype(np.int8), np.dtype(np.uint8))


class Certainty(IntEnum):
    """By what a head was recognized, the least telling first; the text is for people."""

    SHAPE = 1
    NUMBERS = 2
    GRID = 3
    NAMES = 4
    METADATA = 5


WHY: Mapping[Certainty, str] = {
    Certainty.SHAPE: "by the shapes alone",
    Certainty.NUMBERS: "by the numbers of a run",
    Certainty.GRID: "by the number of boxes",
    Certainty.NAMES: "by the names of the outputs",
    Certainty.METADATA: "said by the metadata",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """One output of the graph in a run.

    Attributes:
        name: As the graph calls it.
        values: What it gave.
        operator: That made it.
    """

    name: str
    values: Array
    operator: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `values`."""
        return self.values.shape

    @property
    def is_float(self) -> bool:
        """Whether it holds floating point numbers."""
        return bool(np.issubdtype(self.values.dtype, np.floating))

    @property
    def is_scores(self) -> bool:
        """Whether it may hold scores: floating point numbers, or eight bits of a quantized graph."""
        return self.is_float or self.values.dtype in EIGHT_BITS

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return bool(np.issubdtype(self.values.dtype, np.integer))

    def called(self, *parts: str) -> bool:
        """Whether its name holds one of *parts*."""
        return any(part in self.name.lower() for part in parts)

    def __str__(self) -> str:
        return f"output {self.name!r} {list(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a graph's answers.

    Attributes:
        batch: Pictures in the run.
        height: Of the model's input in the run, pixels.
        width: As above.
        outputs: Of the run, in the graph's order.
        facts: What the file says of itself.
        classes: How many there are, if that is known: from the names given, or the file's own.
        keypoints: How many a body has, if that is known.
        producer: That made the file, such as ``tf2onnx``.
    """

    batch: int
    height: int
    width: int
    outputs: tuple[Seen, ...]
    facts: Facts = field(default_factory=Facts)
    classes: int | None = None
    keypoints: int | None = None
    producer: str = ""

    def floats(self, dimensions: int) -> Iterator[Seen]:
        """Yield the floating point outputs of so many *dimensions*, the first of which is the batch."""
        for seen in self.outputs:
            if seen.is_float and seen.values.ndim == dimensions and seen.shape[0] == self.batch:
                yield seen

    def may_have(self, classes: int) -> bool:
        """Whether a head of so many *classes* agrees with what is known of them."""
        return classes >= 1 and self.classes in {None, classes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a head fits the evidence.

    Attributes:
        outputs: By role of the head: the graph's output.
        classes: How many, ``None`` if nothing says.
        fields: Of `Postprocess`, that are not as by default.
        seen: The outputs in words.
        certainty: How sure that is.
        notes: What was assumed.
    """

    outputs: Mapping[str, str]
    classes: int | None
    seen: str
    certainty: Certainty
    fields: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counted = f", {self.classes} classes" if self.classes is not None else ""
        return f"{self.seen}{counted}, {WHY[self.certainty]}"


Rule = Callable[[Evidence], Fit | None]
