"""What the output of a job says of it, to who does not run it: how far it is, and how it ended."""

from __future__ import annotations

import json
from typing import Any

from cluster.commit import OutputDirectory
from cluster.errors import OutputError
from cluster.report import Summary
from cluster.storage import open_store
from runtime.errors import VedetteError
from runtime.protocol.jobs import Progress

__all__ = ["REPORT", "progress_of", "read_report", "write_report"]

REPORT = "report.json"


def write_report(output: OutputDirectory, summary: Summary) -> None:
    """Keep *summary* beside the rows; a run that found all done does not replace the report of one that worked."""
    if summary.shards["committed"] or output.store.read(REPORT) is None:
        data = json.dumps(summary.as_dict(), indent=1, ensure_ascii=False) + "\n"
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
    try:
        directory = OutputDirectory.open(output)
        job = directory.job()
        return None if job is None else Progress(shards=job.shards, committed=len(directory.committed()))
    except (VedetteError, OSError):
        return None
