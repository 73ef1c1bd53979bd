"""Find the rows at which a worker's process dies: a search by halves. Pure.

Rules:
    * A shard at which processes die is probed part by part, each part alone in a process: what is
      read and inferred there is written nowhere.
    * Where the first half of a part is harmless, the second is taken to hold the row, and is halved
      without a probe: a probe that kills costs a process.
    * No row is found guilty by inference: it must have killed `CONFIRMATIONS` processes in which it
      was the only one. So a process that something else killed convicts nobody.
    * The search ends for any answers: each one halves or drops a part, or is one of the confirmations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

__all__ = ["CONFIRMATIONS", "Part", "Search", "pieces"]

CONFIRMATIONS = 2

Part = tuple[int, int]
"""Rows [start, stop) of a shard, counted from its first."""


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A part that may hold a row that kills.

    Attributes:
        part: Its rows.
        certain: Whether it is taken to hold one.
        first: Whether the part behind it in the list holds the row if this one does not.
    """

    part: Part
    certain: bool = False
    first: bool = False

    @property
    def single(self) -> bool:
        return self.part[1] - self.part[0] == 1

    def halves(self) -> tuple[_Suspect, _Suspect]:
        start, stop = self.part
        middle = (start + stop) // 2
        return _Suspect((start, middle), first=True), _Suspect((middle, stop))


@dataclass(frozen=True, slots=True)
class Search:
    """How far the search in one shard is.

    Attributes:
        found: Rows that kill, in the order in which they were found.
    """

    _open: tuple[_Suspect, ...]
    found: tuple[int, ...] = ()
    _deaths: int = 0  # of processes that held the first open part, a single row, alone

    @classmethod
    def of(cls, rows: int) -> Self:
        """Begin the search in a shard of *rows* rows (at least one), at which processes died."""
        return cls(_split((_Suspect((0, rows), certain=True),)))

    @property
    def part(self) -> Part | None:
        """What to probe next; ``None`` at the end."""
        return self._open[0].part if self._open else None

    def after(self, *, died: bool) -> Self:
        """Return the search after the probe of `part`, at which the process *died* or did not."""
        head, rest = self._open[0], self._open[1:]
        if not died:
            if head.first:
                rest = (replace(rest[0], certain=True), *rest[1:])
            return replace(self, _open=_split(rest), _deaths=0)
        if not head.single:
            return replace(self, _open=_split((replace(head, certain=True), *rest)))
        if self._deaths + 1 < CONFIRMATIONS:
            return replace(self, _deaths=self._deaths + 1)
        return replace(self, _open=_split(rest), found=(*self.found, head.part[0]), _deaths=0)


def _split(suspects: tuple[_Suspect, ...]) -> tuple[_Suspect, ...]:
    """Halve the first of *suspects* as long as it is certain to hold a row."""
    while suspects and suspects[0].certain and not suspects[0].single:
        suspects = (*suspects[0].halves(), *suspects[1:])
    return suspects


def pieces(part: Part, spared: frozenset[int]) -> Iterator[tuple[Part, bool]]:
    """Yield *part* in pieces, in order, and whether the rows of each are usable: each one *spared* is a piece."""
    start, stop = part
    for row in sorted(row for row in spared if start <= row < stop):
        if start < row:
            yield (start, row), True
        yield (row, row + 1), False
        start = row + 1
    if start < stop:
        yield (start, stop), True
