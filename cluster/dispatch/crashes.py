"""Find the rows at which a worker's process dies: a search by parts of parts. Pure.

Rules:
    * A shard at which processes die is probed part by part, each part alone in a process: what is
      read and inferred there is written nowhere.
    * A probe that kills costs a process, one that does not costs little; so a part is cut into `FANOUT`
      rather than in two, and where all but the last of them are harmless, the last is not probed itself.
    * No row is found guilty by inference: it must have killed `CONFIRMATIONS` processes in which it
      was the only one. So a process that something else killed convicts nobody.
    * The search ends for any answers: each one cuts or drops a part, or is one of the confirmations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

__all__ = ["CONFIRMATIONS", "Part", "Search", "pieces"]

CONFIRMATIONS = 2
FANOUT = 8

Part = tuple[int, int]
"""Rows [start, stop) of a shard, counted from its first."""


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A part that may hold a row that kills; behind it in the list are the rest of what it was cut from.

    Attributes:
        part: Its rows.
        owed: Whether it or the rest of its siblings must hold one, since none before it did.
        last: Whether it is the last of its siblings.
    """

    part: Part
    owed: bool = False
    last: bool = True

    @property
    def single(self) -> bool:
        return self.part[1] - self.part[0] == 1

    def cut(self) -> tuple[_Suspect, ...]:
        start, stop = self.part
        rows, pieces = stop - start, min(FANOUT, stop - start)
        edges = [start + rows * piece // pieces for piece in range(pieces + 1)]
        return tuple(
            _Suspect((edges[piece], edges[piece + 1]), owed=piece == 0, last=piece == pieces - 1)
            for piece in range(pieces)
        )


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
        return cls(_cut((_Suspect((0, rows), owed=True),)))

    @property
    def part(self) -> Part | None:
        """What to probe next; ``None`` at the end."""
        return self._open[0].part if self._open else None

    def after(self, *, died: bool) -> Self:
        """Return the search after the probe of `part`, at which the process *died* or did not."""
        head, rest = self._open[0], self._open[1:]
        if not died:
            if head.owed and not head.last:
                rest = (replace(rest[0], owed=True), *rest[1:])
            return replace(self, _open=_cut(rest), _deaths=0)
        if not head.single:
            return replace(self, _open=_cut((*head.cut(), *rest)))
        if self._deaths + 1 < CONFIRMATIONS:
            return replace(self, _deaths=self._deaths + 1)
        return replace(self, _open=_cut(rest), found=(*self.found, head.part[0]), _deaths=0)


def _cut(suspects: tuple[_Suspect, ...]) -> tuple[_Suspect, ...]:
    """Cut the first of *suspects* as long as it must hold a row and is more than one."""
    while suspects and suspects[0].owed and suspects[0].last and not suspects[0].single:
        suspects = (*suspects[0].cut(), *suspects[1:])
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
