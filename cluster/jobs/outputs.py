"""What the output of a job says of it, to who does not run it: how far it is, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.errors import OutputError
from cluster.output.commit import OutputDirectory
from cluster.report.facts import ReportFacts
from cluster.report.sections import render_report
from cluster.storage import open_store
from runtime.errors import VedetteError

if TYPE_CHECKING:
    from runtime.protocol.jobs import Progress

__all__ = ["PAGE", "REPORT", "progress_of", "read_report", "write_report"]

REPORT, PAGE = "report.json", "report.html"


def write_report(output: OutputDirectory, facts: Callable[[], ReportFacts], *, worked: bool) -> None:
    """Keep what there is to say beside the rows, for programs and for people.

    Args:
        output: Of the finished job.
        facts: Gathers it.
        worked: Whether this run did anything; one that found all done does not replace the report of one that worked.
    """
    if worked or output.store.read(REPORT) is None:
        gathered = facts()
        data = json.dumps(gathered.as_dict(), indent=1, ensure_ascii=False) + "\n"
        output.store.put(PAGE, render_report(gathered))
        output.store.put(REPORT, data.encode())


def read_report(output: str) -> dict[str, Any]:
    """Return the report of the job that wrote *output*.

    Raises:
        OutputError: There is none, or it is damaged.
    """
    store = open_store(output)
    data = store.read(REPORT)
    if data is None:
        raise OutputError(
            f"{store.where(REPORT)} is not there: the job is not finished, or its output is on a disk that this "
            "machine does not see"
        )
    try:
        report: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise OutputError(f"{store.where(REPORT)} is damaged: {error}") from None
    return report


def progress_of(output: str) -> Progress | None:
    """Return how far the job that writes *output* is; ``None`` where it has not begun, or is not seen from here."""
    from runtime.protocol.jobs import Progress  # 25 ms, which a job that ends does without

    try:
        directory = OutputDirectory.open(output)
        job = directory.job()
        return None if job is None else Progress(shards=job.shards, committed=len(directory.committed()))
    except (VedetteError, OSError):
        return None
