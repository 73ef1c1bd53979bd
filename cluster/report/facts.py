"""All that a report says, gathered when a job ends."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import pyarrow as pa

from cluster.models import JobModel
from cluster.output.commit import OutputDirectory
from cluster.output.records import JobRecord, OutputManifest
from cluster.report.classes import Classes, count_classes
from cluster.report.examples import Example, examples_of
from cluster.report.history import Done, Slow, Station, Timeline, slowest, stages_of, stations_of, timeline_of
from cluster.report.summary import Summary
from runtime.errors import VedetteError

__all__ = ["ReportFacts", "gather"]

T = TypeVar("T")
LISTED_FILES = 1000  # of the input; ``_job.json`` has all


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What a report is made of.

    Attributes:
        summary: Of the run that ended the job.
        record: Whose job it is: model, input files and options.
        timeline: How fast the whole job went; ``None`` where its commits do not say when they were.
        stages: Busy seconds by stage, over all workers of all runs.
        stations: Who did the work.
        slow: The shards that took longest.
        classes: What each model said that says classes.
        examples: Of bad rows.
        versions: Of the software that the driver ran with.
        notes: What could not be found out.
        ended: When, in seconds since 1970.
    """

    summary: Summary
    record: JobRecord
    timeline: Timeline | None
    stages: dict[str, float]
    stations: Sequence[Station]
    slow: Sequence[Slow]
    classes: Sequence[Classes]
    examples: Sequence[Example]
    versions: dict[str, str]
    notes: Sequence[str]
    ended: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON: the summary's, and what else is known under names of their own."""
        files = list(self.record.files.items())
        return {
            **self.summary.as_dict(),
            "ended": round(self.ended, 3),
            "timeline": None if self.timeline is None else asdict(self.timeline),
            "stages": self.stages,
            "stations": [asdict(one) for one in self.stations],
            "slowest_shards": [asdict(one) for one in self.slow],
            "classes": [asdict(one) for one in self.classes],
            "bad_row_examples": [{**one.row._asdict(), "visible": bool(one.jpeg)} for one in self.examples],
            "lineage": {
                "models": self.record.models,
                "input": self.record.input,
                "input_files": len(files),
                "files": [{"path": path, "etag": etag, "rows": rows} for path, (etag, rows) in files[:LISTED_FILES]],
                "options": self.record.options,
                "versions": self.versions,
            },
            "notes": list(self.notes),
        }


def gather(
    output: OutputDirectory,
    *,
    record: JobRecord,
    manifest: OutputManifest,
    done: Sequence[Done],
    summary: Summary,
    models: Sequence[JobModel],
) -> ReportFacts:
    """Gather what there is to say of the finished job of *record*; what cannot be read becomes a note.

    Args:
        output: Its output.
        record: What identifies it.
        manifest: Of the output.
        done: Its shards with their commits, in order.
        summary: Of the run that ended it.
        models: That answered.
    """
    notes: list[str] = []
    image_column = record.options.get("image column")
    return ReportFacts(
        summary=summary,
        record=record,
        timeline=timeline_of(done),
        stages=stages_of(done),
        stations=stations_of(done),
        slow=slowest(done),
        classes=_tried(lambda: count_classes(output, manifest, models), [], "Classes were not counted", notes),
        examples=_tried(lambda: examples_of(output, manifest, image_column), [], "Bad rows are not shown", notes),
        versions={
            "vedette": version("vedette"),
            "pyarrow": pa.__version__,
            "python": platform.python_version(),
            "onnxruntime": ", ".join(sorted({commit.ran_on.get("onnxruntime", "") for _, commit in done} - {""})),
        },
        notes=notes,
        ended=time.time(),
    )


def _tried(what: Callable[[], T], otherwise: T, problem: str, notes: list[str]) -> T:
    try:
        return what()
    except (VedetteError, OSError, pa.ArrowException) as error:
        notes.append(f"{problem}: {' '.join(str(error).split())}")
        return otherwise
