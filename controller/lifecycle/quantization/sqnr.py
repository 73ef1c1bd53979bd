"""Signal to quantization noise ratio: how much of what a graph gives is its own, how much is rounding."""

from __future__ import annotations

import math

__all__ = ["MOST_DB", "sqnr_db"]

MOST_DB = 200.0  # stands for "the same"


def sqnr_db(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise), dB, 0 where there is no signal or noise without end, and `MOST_DB` at most.

    Args:
        signal: Sum of the squared reference values.
        noise: Sum of the squared differences from them.
    """
    if not math.isfinite(noise):
        return 0.0
    if noise <= 0:
        return MOST_DB
    return min(MOST_DB, 10 * math.log10(signal / noise)) if signal > 0 else 0.0
