"""What was tried, and what came of it: a line a trial, written in two goes so that a death names its trial."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from trial import Verdict

__all__ = ["Journal", "read_journals", "unfinished"]


class Journal:
    """A file that one process appends to, or its parent when the process has died."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def begin(self, number: int) -> None:
        """Write that the trial with *number* begins."""
        os.write(self._file, f"{number} ".encode())

    def end(self, verdict: Verdict) -> None:
        """Write what came of the trial that began."""
        line = [verdict.outcome, round(verdict.seconds, 5), verdict.rss, verdict.detail]
        os.write(self._file, f"{json.dumps(line)}\n".encode())


def read_journals(folder: Path) -> dict[int, Verdict]:
    """Return what came of the trials in *folder* that ended, by their number."""
    found = {}
    for path in sorted(folder.glob("*.journal")):
        for line in path.read_text(encoding="utf-8").splitlines():
            number, _, rest = line.partition(" ")
            if rest:
                outcome, seconds, rss, detail = json.loads(rest)
                found[int(number)] = Verdict(outcome=outcome, seconds=seconds, rss=rss, detail=detail)
    return found


def unfinished(path: Path) -> int | None:
    """Return the number of the trial that began last in the journal at *path* and did not end."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    number, separator, rest = text.rpartition("\n")[2].partition(" ")
    return int(number) if separator and not rest else None
