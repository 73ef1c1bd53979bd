"""A batch job from command to summary: plan, resume, run, finish.

Rules:
    * All that can be refused is refused before anything is written or started: columns, filter,
      workers, another job's output.
    * A job is a model (by digest), an input (by its files' etags) and the options that decide the
      output. Workers, batch size, provider, retries and the bound on bad rows may differ between
      runs of one job.
    * Committed shards are not read again; if all are, no worker is started.
    * The bound on bad rows counts those of earlier runs, too.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pyarrow as pa

from cluster.dispatch.loop import Policy, dispatch
from cluster.ending import end_job
from cluster.errors import OutputError, StoppedError, TooManyBadRowsError, WorkersError
from cluster.evaluation import check_evaluable, with_labels
from cluster.input.sampling import Sample, limited
from cluster.input.sources import Columns, Source, open_source
from cluster.jobs.request import job_id
from cluster.output.commit import OutputDirectory
from cluster.output.merging import FILE_BYTES
from cluster.output.records import JobRecord
from cluster.output.schema import Kept, kept_fields, named_apart, output_schema
from cluster.plan import Shard, ShardLimits, default_shard_rows, plan_shards
from cluster.pool.apart import ApartPool, marker_of, marking
from cluster.pool.base import LocalPool, Pool
from cluster.pool.seats import divide, machine_cores, parse_threads, parse_workers, seats
from cluster.pool.tasks import Outcome
from cluster.report import Summary, Tally
from cluster.storage import is_remote
from cluster.storage.fetch import FetchLimits
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import WORKER_MEMORY, WorkerSpec
from runtime.artifact import Artifact
from runtime.home import Home
from runtime.store import ModelStore, resolve_artifact
from runtime.terminal import Progress, progress

__all__ = ["BatchOptions", "Job", "plan_job", "run_batch"]

MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What a job was asked for; the command line's options, one to one.

    Attributes:
        model: ``NAME``, ``NAME@VERSION``, or the path of an artifact.
        input: URI of the dataset.
        output: URI of the directory to write.
        image_column: Of Parquet; found out if ``None``.
        keep: Columns that pass through; ``COLUMN`` or ``COLUMN=NAME``.
        evaluate: Column of labels to judge the answers by; it is kept.
        filter: Expression; see `cluster.input.filters`.
        sample: Fraction of the rows to take, before the filter; all if ``None``.
        seed: Of the sample.
        limit: Take so many rows of the sample, or of all, at most, before the filter; all if ``None``.
        workers: ``auto``, ``N`` or ``KIND=N,...``; see `cluster.pool.seats`.
        provider: Execution provider, or ``auto``.
        batch_size: Images an inference; found out by each worker if ``None``.
        threads: ``SESSION:DECODE``, of each worker: within an inference, and to decode; found out if ``None``.
        decoder: ``cpu``, ``auto`` or ``nvimagecodec``; see `cluster.worker.decoders`.
        decode_actors: Processes on nodes without an accelerator that read and decode for all workers.
        worker_memory: MiB that the images in the buffers of each worker may have.
        fetch_concurrency: Images that each worker fetches at a time where a column names them by URL.
        shard_rows: At most so many rows a shard; chosen by the size of the input if ``None``.
        file_bytes: Files of shards are joined up to this size when the job ends; 0: they are left as they are.
        max_bad_rows: More quarantined rows end the job; unbounded if ``None``.
        max_retries: Further tries of a shard after its first.
        stall_timeout: Seconds without progress after which a shard is given up.
        shard_timeout: Seconds in all after which a try of a shard is given up; never if ``None``.
        local: Run in this process, without Ray.
        address: Of a Ray cluster; one is started on this machine if ``None``.
        store: URI of the artifact store; the default one if ``None``.
    """

    model: str
    input: str
    output: str
    image_column: str | None = None
    keep: tuple[str, ...] = ()
    evaluate: str | None = None
    filter: str | None = None
    sample: float | None = None
    seed: int = 0
    limit: int | None = None
    workers: str = "auto"
    provider: str = "auto"
    batch_size: int | None = None
    threads: str | None = None
    decoder: str = "cpu"
    decode_actors: int = 0
    worker_memory: int = WORKER_MEMORY // MIB
    fetch_concurrency: int = 16
    shard_rows: int | None = None
    file_bytes: int = FILE_BYTES
    max_bad_rows: int | None = None
    max_retries: int = 3
    stall_timeout: float = 300.0
    shard_timeout: float | None = None
    local: bool = False
    address: str | None = None
    store: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A planned job; nothing of it is written yet.

    Attributes:
        options: What was asked for.
        artifact: The model.
        source: The input.
        shards: All of them, in order.
        record: What identifies the job.
        schema: Of the output's rows.
        spec: What its workers must know.
        output: Where it goes.
    """

    options: BatchOptions
    artifact: Artifact
    source: Source
    shards: tuple[Shard, ...]
    record: JobRecord
    schema: pa.Schema
    spec: WorkerSpec
    output: OutputDirectory

    def describe(self) -> dict[str, Any]:
        """Return the plan as plain values for JSON."""
        done = self.output.committed() & {shard.id for shard in self.shards}
        return {
            "model": self.record.model,
            "model_sha256": self.record.model_sha256,
            "input": self.record.input,
            "output": self.output.uri,
            "files": len(self.source.files),
            "rows": self.source.rows,
            "bytes": sum(shard.size for shard in self.shards),
            "image_column": self.source.columns.image,
            "shards": len(self.shards),
            "committed": len(done),
            "columns": {field.name: str(field.type) for field in self.schema},
        }


def plan_job(options: BatchOptions) -> Job:
    """Plan the job that *options* ask for, and refuse what cannot work; nothing is written.

    Raises:
        UsageError: An option does not fit the others or the input.
        ModelNotFoundError: There is no such model.
        ModelError: This version of Vedette does not know the model's head.
        DatasetError: The input is absent, empty, damaged, or no dataset.
        OtherJobError: The output belongs to another job.
        OutputError: The output holds something that no job wrote.
    """
    counts = parse_workers(options.workers)
    if options.local and options.decode_actors:
        raise WorkersError("--decode-actors needs a Ray cluster; --local has one process")
    if options.local and counts and counts.keys() != {"cpu"}:
        raise WorkersError(f"--workers {options.workers!r}: with --local there is one worker; name its --provider")
    output = OutputDirectory.open(options.output)
    artifact = resolve_artifact(options.model, ModelStore.open(options.store) if options.store else None)
    names = with_labels(options.keep, options.evaluate)
    keep = named_apart(map(Kept.parse, names), artifact.manifest)
    sample = None if options.sample is None else Sample(fraction=options.sample, seed=options.seed)
    columns = Columns(
        image=options.image_column, keep=tuple(kept.column for kept in keep), filter=options.filter, sample=sample
    )
    source = open_source(options.input, columns)
    if options.limit is not None:
        source = replace(source, files=tuple(limited(source.files, options.limit, sample)))
    _check_apart(output.uri, source)
    kept = tuple(kept_fields(source.schema, keep))
    if options.evaluate is not None:
        check_evaluable(artifact.manifest, source.schema.field(options.evaluate))
    schema = output_schema(artifact.manifest, kept)
    limits = ShardLimits(rows=options.shard_rows or default_shard_rows(source.rows))
    shards = plan_shards(source.files, limits, reader=source.reader)
    record = JobRecord(
        model=artifact.manifest.reference,
        model_sha256=artifact.digest,
        input=source.uri,
        files={file.path: (file.etag, file.rows) for file in source.files},
        options={
            "image column": source.columns.image,
            "keep": list(names),
            "filter": options.filter,
            "sample": None if sample is None else [sample.fraction, sample.seed],
            "limit": options.limit,
            "shard rows": limits.rows,
            "shard bytes": limits.size,
            "file bytes": options.file_bytes,
        },
        shards=len(shards),
    )
    output.check(record)
    return Job(
        options=options,
        artifact=artifact,
        source=source,
        shards=shards,
        record=record,
        schema=schema,
        spec=_worker_spec(options, output.uri, source, kept),
        output=output,
    )


def _worker_spec(options: BatchOptions, output: str, source: Source, kept: tuple[pa.Field, ...]) -> WorkerSpec:
    return WorkerSpec(
        output=output,
        columns=source.columns,
        kept=kept,
        batch_size=options.batch_size,
        threads=None if options.threads is None else parse_threads(options.threads),
        provider=options.provider,
        decoder=options.decoder,
        fetch=FetchLimits(concurrency=options.fetch_concurrency),
        memory=options.worker_memory * MIB,
    )


def _check_apart(output: str, source: Source) -> None:
    """Raise if the output lies inside the input: the next run would take it for input."""
    place = source.uri.partition("#")[0]
    inside = (
        f"{output}/".startswith(f"{place}/")
        if is_remote(place)
        else Path(place).is_dir() and Path(output).resolve().is_relative_to(Path(place).resolve())
    )
    if inside:
        raise OutputError(f"--output {output} lies inside the input {place}; give a place beside it")


def run_batch(options: BatchOptions) -> Summary:
    """Run the job that *options* ask for to its end, or go on with it.

    Raises:
        VedetteError: As `plan_job`; and the errors of `cluster.errors` while it runs. What was
            committed stays, and the same call goes on with the rest.
    """
    started = time.monotonic()
    job = plan_job(options)
    job.output.claim(job.record)
    tally = Tally()
    commits = job.output.commits()
    done = [commits[shard.id] for shard in job.shards if shard.id in commits]
    tally.resume(done)
    _check_bad_rows(job, tally)
    pending = [shard for shard in job.shards if shard.id not in commits]
    workers, working = _run_pending(job, pending, tally) if pending else (0, 0.0)
    return end_job(job, tally, workers=workers, working=working, started=started)


def _run_pending(job: Job, pending: list[Shard], tally: Tally) -> tuple[int, float]:
    """Run the *pending* shards; return the number of workers and the seconds that shards were running."""
    opener = _local_pool if job.options.local else _ray_pool
    policy = Policy(
        max_retries=job.options.max_retries,
        stall_timeout=job.options.stall_timeout,
        shard_timeout=job.options.shard_timeout,
    )
    rows = sum(shard.rows for shard in pending)
    with _StopOnSignals(job) as signals, opener(job, len(pending)) as pool:
        signals.install()  # again, because Ray took SIGTERM for itself
        with progress(rows, "batch", "rows") as display:
            begun = time.monotonic()
            follower = _Follower(job, tally, display)
            happened = dispatch(pool, pending, policy, on_committed=follower.committed, on_progress=follower.running)
            tally.happened.update(happened)
            tally.remarks += pool.remarks
            return pool.workers, time.monotonic() - begun


@contextmanager
def _local_pool(job: Job, pending: int) -> Iterator[Pool]:
    counts = parse_workers(job.options.workers)
    division = divide(machine_cores(), counts["cpu"] if counts else None)
    workers = min(division.workers, pending)
    threads = division.threads.times(workers)
    with marking(marker_of(job.output.uri, Home.from_environment().cache)) as died:
        pool: Pool
        if died:
            pool = ApartPool(job.artifact, job.spec, threads, workers=workers)
        else:
            pool = LocalPool(ShardWorker(job.artifact, job.spec, threads), workers=workers)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def _ray_pool(job: Job, pending: int) -> Iterator[Pool]:
    from cluster.pool.metrics import MeasuredPool, RayMeter
    from cluster.pool.ray_pool import RayPool, ray_session
    from cluster.pool.shipping import pack

    counts = parse_workers(job.options.workers)
    with ray_session(job.options.address, machine_cores()) as ours:
        pool = RayPool(
            pack(job.artifact),
            job.spec,
            lambda nodes, refused: seats(nodes, counts, job.options.provider, pending, refused, sharing=ours),
            crew=job.options.decode_actors,
        )
        meter = RayMeter(job=job_id(job.output.uri), model=job.record.model)
        try:
            yield MeasuredPool(pool, meter, pending)
        finally:
            pool.close()


class _Follower:
    """Counts what is committed, shows it, and ends the job at too many bad rows."""

    def __init__(self, job: Job, tally: Tally, display: Progress) -> None:
        self._job, self._tally, self._display = job, tally, display
        self._committed_rows = self._shown = 0

    def committed(self, outcome: Outcome) -> None:
        """Count the commit of a shard, ours or another driver's."""
        commit = outcome.commit or self._job.output.commit_of(outcome.task.shard.id)
        if commit is None:
            raise OutputError(f"{self._job.output.uri}: the commit of shard {outcome.task.shard} is gone")
        self._tally.add(commit, ours=outcome.commit is not None)
        self._committed_rows += commit.rows
        _check_bad_rows(self._job, self._tally)
        self.running(0)

    def running(self, rows: int) -> None:
        """Show *rows* of running shards beside the committed ones; the display never goes back."""
        now = max(self._shown, self._committed_rows + rows)
        bad = sum(self._tally.bad.values())
        self._display.advance(now - self._shown, **({"bad": bad} if bad else {}))
        self._shown = now


def _check_bad_rows(job: Job, tally: Tally) -> None:
    bound = job.options.max_bad_rows
    bad = sum(tally.bad.values())
    if bound is not None and bad > bound:
        reasons = ", ".join(f"{count} {reason}" for reason, count in tally.bad.most_common())
        raise TooManyBadRowsError(
            f"{bad} bad rows ({reasons}), more than --max-bad-rows {bound}; they are listed in "
            f"{job.output.store.where('quarantine')}. Run the same command with a larger bound to go on"
        )


class _StopOnSignals:
    """Turns SIGINT and SIGTERM into `StoppedError` while inside, so that everything is ended in order."""

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, job: Job) -> None:
        self._job = job
        self._before = {number: signal.getsignal(number) for number in self.HANDLED}

    def __enter__(self) -> Self:
        self.install()
        return self

    def install(self) -> None:
        """Handle the signals from here on; only the main thread can."""
        self._set(dict.fromkeys(self.HANDLED, self._stop))

    def _set(self, handlers: Mapping[signal.Signals, Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._set(dict.fromkeys(self.HANDLED, signal.SIG_IGN))  # a second signal must not break the end
        done = self._job.output.committed() & {shard.id for shard in self._job.shards}
        raise StoppedError(
            f"stopped by {signal.Signals(number).name}: {len(done)} of {len(self._job.shards)} shards are "
            "committed; run the same command again to go on"
        )
