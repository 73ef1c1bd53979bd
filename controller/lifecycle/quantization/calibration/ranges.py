"""Between which numbers each tensor of a graph lies: what static quantization needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Range", "Ranges"]

Range = tuple[float, float]
"""Lowest and highest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What a calibration found.

    Attributes:
        method: By which it was found, as `controller.lifecycle.quantization.calibration.METHODS` names it.
        images: That it was found on.
        values: By tensor name.
    """

    method: str
    images: int
    values: Mapping[str, Range]
