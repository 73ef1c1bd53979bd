"""The end of a batch job, when every shard is committed: join the files, judge the answers, write the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.errors import SchemaError
from cluster.jobs.outputs import write_report
from cluster.output.merging import Merger
from cluster.output.schema import Kept, answer_columns, named_apart, with_column
from cluster.report import Summary, Tally
from cluster.report.facts import ReportFacts, gather

if TYPE_CHECKING:
    from cluster.evaluation import Evaluation
    from cluster.output.records import OutputManifest
    from cluster.planning import Job

__all__ = ["end_job"]


def end_job(job: Job, tally: Tally, *, workers: int, working: float, started: float) -> Summary:
    """Make the output of *job*, whose shards are committed, whole; return what there is to say of it.

    Args:
        job: That ends.
        tally: What this run of it did.
        workers: How many this run had.
        working: Seconds that shards were running.
        started: When this run began, by `time.monotonic`.

    Raises:
        OutputError: A shard is not committed, or a committed file is gone or not the one committed.
        SchemaError: A label to judge by is no class of the model; the report is there, without figures.
    """
    manifest = job.output.finish(job.record, job.shards, Merger(job.output, job.options.file_bytes))
    evaluations: list[Evaluation] = []
    failed = None
    try:
        evaluations += _evaluated(job, manifest)
    except SchemaError as error:
        failed = error
    summary = Summary.of(
        manifest,
        tally,
        evaluations=evaluations,
        output=job.output.uri,
        workers=workers,
        working=working,
        elapsed=time.monotonic() - started,
    )
    worked = summary.shards["committed"] > 0 or bool(summary.evaluations)
    write_report(job.output, lambda: _facts(job, manifest, summary), worked=worked)
    if failed is not None:
        raise failed
    return summary


def _evaluated(job: Job, manifest: OutputManifest) -> Iterator[Evaluation]:
    """Yield how right the answers of each model are, if they are to be judged."""
    if not job.labels:
        return
    from cluster.evaluation import evaluate

    answers = answer_columns(job.models)
    for model, labels in zip(job.models, job.labels, strict=True):
        kept = named_apart(map(Kept.parse, with_column(job.options.keep, labels.column)), answers)
        name = next(one.name for one in kept if one.column == labels.column)
        yield evaluate(job.output, manifest, labels, model.manifest, name=name, prefix=model.prefix)


def _facts(job: Job, manifest: OutputManifest, summary: Summary) -> ReportFacts:
    commits = job.output.commits()
    return gather(
        job.output,
        record=job.record,
        manifest=manifest,
        done=[(shard, commits[shard.id]) for shard in job.shards],
        summary=summary,
        models=job.models,
    )
