"""What every head gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from runtime.manifest import Manifest, Task
from runtime.tasks.results import Prediction

__all__ = ["Decode", "Head", "Outputs"]

Outputs = Mapping[str, npt.NDArray[Any]]
"""What the graph gave, by name, in the graph's order."""

Decode = Callable[[Outputs, Sequence[tuple[int, int]], Manifest], Sequence[Prediction]]
"""(outputs, (height, width) of the upright originals, manifest) -> one prediction an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One way in which models say what they see.

    Attributes:
        task: Which task it does.
        result: What it gives for an image.
        decode: From the graph's outputs to that. Raises `ModelError` where they do not fit the head.
        what: In words, with the shapes that it expects; for people who must choose one.
    """

    task: Task
    result: type[Prediction]
    decode: Decode
    what: str
