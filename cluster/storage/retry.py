"""When to ask again: exponential backoff with full jitter."""

from __future__ import annotations

import random
from collections.abc import Iterator

from runtime.objects import Patience

__all__ = ["waits"]


def waits(patience: Patience, retries: int) -> Iterator[float]:
    """Yield the seconds to wait before each of *retries*: random, up to a bound that doubles each time."""
    for tried in range(1, retries + 1):
        yield random.uniform(0, min(patience.longest_wait, 10 * patience.first_wait * 2**tried))  # noqa: S311 - no secret
