"""A dataset of rows that are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.datasets import Row

__all__ = ["Listed"]


@dataclass(frozen=True)
class Listed:
    """The rows that are *given*, in that order."""

    given: Sequence[Row]
    label_names: tuple[str, ...] | None = None
    uri: str = "listed"
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.given)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        return iter(self.given[start:stop])
