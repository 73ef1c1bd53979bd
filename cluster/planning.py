"""A batch job from command to plan.

Rules:
    * All that can be refused is refused before anything is written or started: columns, filter,
      workers, another job's output.
    * A job is its models (by digest), an input (by its files' etags) and the options that decide the
      output. Workers, batch size, provider, retries and the bound on bad rows may differ between
      runs of one job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.errors import OutputError, WorkersError
from cluster.input.sampling import Sample, limited
from cluster.input.sources import Columns, Source, open_source
from cluster.models import JobModel, open_models
from cluster.output.commit import OutputDirectory
from cluster.output.merging import FILE_BYTES
from cluster.output.partitions import MOST_PARTITIONS, PartitionColumn, Partitioning, partition_column
from cluster.output.records import JobRecord
from cluster.output.schema import Kept, answer_columns, kept_fields, named_apart, output_schema, with_column
from cluster.plan import Shard, ShardLimits, plan_shards
from cluster.pool.seats import parse_threads, parse_workers
from cluster.storage import is_remote
from cluster.storage.fetch import FetchLimits
from cluster.worker.spec import WORKER_MEMORY, WorkerSpec

if TYPE_CHECKING:
    from cluster.input.labels import LabelColumn

__all__ = ["BatchOptions", "Job", "plan_job"]

MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What a job was asked for; the command line's options, one to one.

    Attributes:
        models: Each ``NAME``, ``NAME@VERSION``, or the path of an artifact; all answer each picture.
        input: URI of the dataset.
        output: URI of the directory to write.
        image_column: Of Parquet; found out if ``None``.
        keep: Columns that pass through; ``COLUMN`` or ``COLUMN=NAME``.
        evaluate: Column of labels to judge the answers by; it is kept.
        partition_by: Column to partition the output by; it is kept.
        max_partitions: More values of that column end the job.
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

    models: tuple[str, ...]
    input: str
    output: str
    image_column: str | None = None
    keep: tuple[str, ...] = ()
    evaluate: str | None = None
    partition_by: str | None = None
    max_partitions: int = MOST_PARTITIONS
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
        models: That answer.
        source: The input.
        shards: All of them, in order.
        record: What identifies the job.
        schema: Of the output's rows.
        spec: What its workers must know.
        output: Where it goes.
        labels: What the answers of each model are judged by, if they are.
    """

    options: BatchOptions
    models: tuple[JobModel, ...]
    source: Source
    shards: tuple[Shard, ...]
    record: JobRecord
    schema: pa.Schema
    spec: WorkerSpec
    output: OutputDirectory
    labels: tuple[LabelColumn, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the plan as plain values for JSON."""
        done = self.output.committed() & {shard.id for shard in self.shards}
        return {
            "models": self.record.models,
            "input": self.record.input,
            "output": self.output.uri,
            "files": len(self.source.files),
            "rows": self.source.rows,
            "bytes": sum(shard.size for shard in self.shards),
            "image_column": self.source.columns.image,
            "shards": len(self.shards),
            "committed": len(done),
            "partition_by": self.record.partition_by and self.record.partition_by.name,
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
    _check_workers(options)
    output = OutputDirectory.open(options.output)
    models = open_models(options.models, options.store)
    answers = answer_columns(models)
    names = with_column(with_column(options.keep, options.evaluate), options.partition_by)
    keep = named_apart(map(Kept.parse, names), answers)
    source = _open_input(options, keep)
    _check_apart(output.uri, source)
    kept = tuple(kept_fields(source.schema, keep))
    labels = () if options.evaluate is None else _labels(models, source, options.evaluate)
    schema = output_schema(answers, kept)
    partition_by = partition_column(schema, keep, options.partition_by)
    limits = ShardLimits(rows=options.shard_rows) if options.shard_rows else ShardLimits.default(source.rows)
    shards = plan_shards(source.files, limits, reader=source.reader)
    record = JobRecord(
        models={one.manifest.reference: one.artifact.digest for one in models},
        input=source.uri,
        files={file.path: (file.etag, file.rows) for file in source.files},
        options={
            "image column": source.columns.image,
            "keep": list(names),
            "filter": options.filter,
            "sample": None if options.sample is None else [options.sample, options.seed],
            "limit": options.limit,
            "shard rows": limits.rows,
            "shard bytes": limits.size,
            "first shard rows": limits.first,
            "file bytes": options.file_bytes,
            **({} if partition_by is None else {"partition by": partition_by.name}),
        },
        shards=len(shards),
        partition_by=partition_by,
    )
    output.check(record)
    return Job(
        options=options,
        models=models,
        source=source,
        shards=shards,
        record=record,
        schema=schema,
        spec=_worker_spec(options, output.uri, source, kept, partition_by),
        output=output,
        labels=labels,
    )


def _check_workers(options: BatchOptions) -> None:
    """Raise unless the workers that *options* ask for can be had where the job runs."""
    counts = parse_workers(options.workers)
    if options.local and options.decode_actors:
        raise WorkersError("--decode-actors needs a Ray cluster; --local has one process")
    if options.local and counts and counts.keys() != {"cpu"}:
        raise WorkersError(f"--workers {options.workers!r}: with --local there is one worker; name its --provider")


def _open_input(options: BatchOptions, keep: Sequence[Kept]) -> Source:
    """Return the input that *options* ask for, up to their limit; its columns are looked at."""
    sample = None if options.sample is None else Sample(fraction=options.sample, seed=options.seed)
    columns = Columns(
        image=options.image_column, keep=tuple(kept.column for kept in keep), filter=options.filter, sample=sample
    )
    source = open_source(options.input, columns)
    if options.limit is None:
        return source
    return replace(source, files=tuple(limited(source.files, options.limit, sample)))


def _labels(models: Sequence[JobModel], source: Source, column: str) -> tuple[LabelColumn, ...]:
    """Return what the answers of each of *models* are judged by: *column* of *source*."""
    from cluster.input.labels import check_evaluable  # which loads what judges, and most jobs are not judged

    return tuple(check_evaluable(model.manifest, source, column) for model in models)


def _worker_spec(
    options: BatchOptions, output: str, source: Source, kept: tuple[pa.Field, ...], by: PartitionColumn | None
) -> WorkerSpec:
    return WorkerSpec(
        output=output,
        columns=source.columns,
        kept=kept,
        batch_size=options.batch_size,
        threads=None if options.threads is None else parse_threads(options.threads),
        provider=options.provider,
        decoder=options.decoder,
        fetch=FetchLimits(concurrency=options.fetch_concurrency),
        partitioning=None if by is None else Partitioning(column=by, most=options.max_partitions),
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
