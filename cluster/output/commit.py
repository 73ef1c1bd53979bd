"""The output of a job, in a directory or a bucket, and the protocol by which a shard's rows come to count exactly once.

    _job.json                                the job that owns the directory; put if absent
    data/<shard>-<attempt>.parquet           what an attempt wrote; where the output is partitioned, files of
                                             each value in a folder of its own (`cluster.output.partitions`)
    quarantine/<shard>-<attempt>.parquet     its bad rows, if there are any
    _commits/<shard>.json                    put if absent: the attempt that counts
    _manifest.json, _SUCCESS                 put last: every shard is committed and the rows balance

Rules:
    * The files of an attempt are whole and durable before its commit is tried.
    * The first commit of a shard wins, whoever tries: a retry, another worker, another driver.
      What a loser wrote is garbage, and only the loser itself may remove it.
    * A commit names its attempt. So one whose put was answered by nobody, and that finds itself there when
      it is put again, has won.
    * Recovery deletes nothing. What a killed attempt left is never read.
    * An attempt's files count together or not at all, however many there are.
    * Rows balance: of every shard, in = out + quarantined + filtered.
    * Readers go through ``_manifest.json`` (`cluster.output.read`), never through a listing of ``data/``.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from cluster.errors import CommitLostError, OtherJobError, OutputError
from cluster.output.partitions import Partition, PartitionedFiles, Partitioning
from cluster.output.records import Commit, JobRecord, OutputManifest, WrittenFile, parse_record
from cluster.output.schema import QUARANTINE_SCHEMA
from cluster.plan import Shard
from cluster.storage import Entry, Store, open_store
from runtime.manifest import describe_validation

__all__ = ["FLUSH_BYTES", "FLUSH_ROWS", "Attempt", "BadRow", "Merge", "OutputDirectory", "TableFile"]

FLUSH_ROWS = 8192  # rows of a row group of the output ...
IMAGES_PAGE = 16  # values after which the size of a page is checked, where pages hold images
FLUSH_BYTES = 16 * 1024**2  # ... or bytes, whatever comes first


JOB, MANIFEST, SUCCESS, COMMITS = "_job.json", "_manifest.json", "_SUCCESS", "_commits/"


Merge = Callable[[Sequence[Commit]], Sequence[WrittenFile]]
"""Makes the files of an output from those of the commits, in the order of the plan; see `cluster.output.merging`."""


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """The output place of one job.

    Attributes:
        store: Where it is; made when the job claims it.
    """

    store: Store

    @classmethod
    def open(cls, uri: str | Path) -> Self:
        """Open the place at *uri*: a path, or the URL of an object store.

        Raises:
            UsageError: It is a URL of no object store.
        """
        return cls(open_store(uri))

    @property
    def uri(self) -> str:
        """Where it is: an absolute path, or a URL without a last slash."""
        return self.store.uri

    def job(self) -> JobRecord | None:
        """Return the job that owns the directory, if there is one."""
        data = self.store.read(JOB)
        return None if data is None else parse_record(JobRecord, data, self.store.where(JOB))

    def claim(self, job: JobRecord) -> None:
        """Make the directory *job*'s; fine if it is already.

        Raises:
            OtherJobError: It is another job's.
            OutputError: It holds something that no job wrote.
        """
        self.check(job)
        try:
            self.store.create(JOB, job.to_bytes())
        except FileExistsError:
            self.check(job)
        self.store.prepare(("data", "_commits"))

    def check(self, job: JobRecord) -> None:
        """Raise what `claim` would, and write nothing."""
        strangers = self.store.names()
        owner = self.job()  # looked for after the listing: who claims meanwhile is no stranger
        if owner is None:
            if strangers:
                raise OutputError(
                    f"{self.uri} is not empty and no batch job's (it holds {', '.join(sorted(strangers)[:3])}); "
                    "give --output a new or empty directory"
                )
            return
        if differences := owner.differences(job):
            raise OtherJobError(
                f"{self.uri} belongs to another job; it differs in: {'; '.join(differences)}. "
                "Run that job, or give --output a new directory"
            )

    def commit_of(self, shard_id: str) -> Commit | None:
        """Return the commit of a shard, if it has one."""
        key = _commit_key(shard_id)
        data = self.store.read(key)
        return None if data is None else parse_record(Commit, data, self.store.where(key))

    def committed(self) -> set[str]:
        """Return the ids of the shards that are committed; one listing, and no commit is read."""
        listed = (key.removeprefix(COMMITS) for key in self.store.entries(COMMITS))
        return {name.removesuffix(".json") for name in listed if name.endswith(".json") and "/" not in name}

    def commits(self) -> dict[str, Commit]:
        """Return all commits by shard id."""
        ids = sorted(self.committed())
        keys = [_commit_key(shard_id) for shard_id in ids]
        read = zip(ids, keys, self.store.read_all(keys), strict=True)
        return {
            shard_id: parse_record(Commit, data, self.store.where(key))
            for shard_id, key, data in read
            if data is not None
        }

    @contextmanager
    def attempt(self, shard: Shard, schema: pa.Schema, partitioning: Partitioning | None = None) -> Iterator[Attempt]:
        """Begin an attempt at *shard*, whose rows have *schema*; what it wrote is removed unless it commits."""
        attempt = Attempt(store=self.store, shard=shard, schema=schema, partitioning=partitioning)
        try:
            yield attempt
        finally:
            attempt.close()

    def finish(self, job: JobRecord, shards: Sequence[Shard], merge: Merge | None = None) -> OutputManifest:
        """Put ``_manifest.json`` and ``_SUCCESS``, if all *shards* are committed whole.

        Args:
            job: Whose output it is.
            shards: All of its plan, in order.
            merge: Makes the files of the output from those that the shards' commits name, the same whoever calls it;
                what is in ``data/`` besides is removed once ``_SUCCESS`` is there. ``None``: they are the output.

        Raises:
            OutputError: A shard is not committed, or a committed file is gone or not the one committed.
        """
        manifest = self.finished()
        if manifest is None:
            manifest = self._finish(job, shards, merge)
        found = self._verify(manifest)
        for key, data in ((MANIFEST, manifest.to_bytes()), (SUCCESS, b"")):
            with suppress(FileExistsError):  # another driver of the same job was faster; the commits are the same
                self.store.create(key, data)
        if merge is not None:
            named = {written.path for written in manifest.data}
            self.store.remove_all([key for key in found if key.startswith("data/") and key not in named])
        return manifest

    def _finish(self, job: JobRecord, shards: Sequence[Shard], merge: Merge | None) -> OutputManifest:
        """Return the manifest that *job*, whose *shards* are to be committed, ends with."""
        commits = self.commits()
        if missing := [shard for shard in shards if shard.id not in commits]:
            raise OutputError(f"{self.uri}: {len(missing)} shards are not committed, the first is {missing[0]}")
        ordered = [commits[shard.id] for shard in shards]
        try:
            return OutputManifest.of(job, ordered, None if merge is None else merge(ordered))
        except (OutputError, OSError):
            if (finished := self.finished()) is None:
                raise
            return finished  # by another driver, which removed meanwhile what it had merged

    def _verify(self, manifest: OutputManifest) -> Mapping[str, Entry]:
        """Return what is in ``data/`` and ``quarantine/``, if all files of *manifest* are there, whole."""
        found = {**self.store.entries("data/"), **self.store.entries("quarantine/")}
        for written in (*manifest.data, *manifest.quarantine):
            self._verify_file(written, found.get(written.path))
        return found

    def _verify_file(self, written: WrittenFile, found: Entry | None) -> None:
        if found is None or found.size != written.size:
            seen = "is gone" if found is None else f"has {found.size} bytes"
            raise OutputError(f"{self.store.where(written.path)} {seen}; its commit says {written.size} bytes")

    def finished(self) -> OutputManifest | None:
        """Return the manifest of a finished job; ``None`` if the job is not finished."""
        if self.store.read(SUCCESS) is None or (data := self.store.read(MANIFEST)) is None:
            return None
        return parse_record(OutputManifest, data, self.store.where(MANIFEST))


def _commit_key(shard_id: str) -> str:
    return f"{COMMITS}{shard_id}.json"


class BadRow(NamedTuple):
    """A row that cannot be used, as it stands in quarantine."""

    source_file: str
    source_row: int
    reason: str
    detail: str


class TableFile:
    """A Parquet file that is invisible until it is whole and durable."""

    def __init__(self, store: Store, key: str, schema: pa.Schema, partition: Partition | None = None) -> None:
        self._key = key
        self._partition = None if partition is None else dict(partition)
        self._draft = store.draft(key)
        images = any(_holds_binary(field.type) for field in schema)
        self._writer = pq.ParquetWriter(
            self._draft.file,
            schema,
            compression="none" if images else "zstd",  # encoded images do not compress
            write_batch_size=IMAGES_PAGE if images else None,
        )
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._pending_rows = self._pending_bytes = self._rows = 0

    def write(self, table: pa.Table) -> None:
        """Add the rows of *table*."""
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._pending_bytes += table.nbytes
        if self._pending_rows >= FLUSH_ROWS or self._pending_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending_rows:
            table = pa.concat_tables(self._pending)
            if not table.schema.equals(self._schema):
                table = table.cast(self._schema)  # which loads pyarrow.compute: 70 ms and 9 MB
            self._writer.write_table(table)
        self._rows += self._pending_rows
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def publish(self) -> WrittenFile:
        """Make the file visible under its name; durable when this returns."""
        self._flush()
        self._writer.close()
        size = self._draft.publish()
        return WrittenFile(path=self._key, rows=self._rows, size=size, partition=self._partition)

    def discard(self) -> None:
        """Remove the file, visible or not; it counts nowhere."""
        with suppress(OSError, ValueError, pa.ArrowException):  # a full disk refuses the last bytes; no loss
            self._writer.close()
        self._draft.discard()


def _holds_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_binary(inner.type) for inner in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@dataclass(slots=True)
class Attempt:
    """One try at one shard.

    Attributes:
        store: The output place.
        shard: What is tried.
        schema: Of the output's rows.
        partitioning: How they are partitioned; in one file if ``None``.
        id: Names the files of this try; no other has it.
    """

    store: Store
    shard: Shard
    schema: pa.Schema
    partitioning: Partitioning | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _good: TableFile | PartitionedFiles | None = None
    _bad: TableFile | None = None
    _written: tuple[WrittenFile | tuple[WrittenFile, ...], WrittenFile | None] | None = None
    _reasons: Counter[str] = field(default_factory=Counter)
    _keep: bool = False
    _started: float = field(default_factory=time.time)

    @property
    def _name(self) -> str:
        return f"{self.shard.id}-{self.id}"

    def _make(self, key: str, schema: pa.Schema, partition: Partition | None = None) -> TableFile:
        return TableFile(self.store, key, schema, partition)

    def _good_file(self) -> TableFile | PartitionedFiles:
        if self._good is None:
            self._good = (
                self._make(f"data/{self._name}.parquet", self.schema)
                if self.partitioning is None
                else PartitionedFiles(self.partitioning, self.schema, self._name, self._make)
            )
        return self._good

    def write(self, table: pa.Table) -> None:
        """Add the rows of *table* to the output.

        Raises:
            PartitionError: The column to partition by has too many values.
        """
        self._good_file().write(table)

    def quarantine(self, rows: Sequence[BadRow]) -> None:
        """Set bad *rows* aside."""
        if rows:
            columns = [
                pa.array(column, kind.type)
                for column, kind in zip(zip(*rows, strict=True), QUARANTINE_SCHEMA, strict=True)
            ]
            if self._bad is None:
                self._bad = self._make(f"quarantine/{self._name}.parquet", QUARANTINE_SCHEMA)
            self._bad.write(pa.table(columns, schema=QUARANTINE_SCHEMA))
            self._reasons.update(row.reason for row in rows)

    def publish(self) -> None:
        """Make the files of this attempt whole and durable; nothing can be written after that."""
        good = self._good_file().publish()  # a shard without good rows has a file, too
        self._written = good, self._bad.publish() if self._bad else None

    def commit(
        self,
        *,
        filtered: int,
        seconds: Mapping[str, float],
        ran_on: Mapping[str, str],
        decoders: Mapping[str, int] = MappingProxyType({}),
    ) -> Commit:
        """Make this attempt, which was published, the one that counts.

        Args:
            filtered: Rows that the filter left out.
            seconds: Busy seconds by stage.
            ran_on: Variant, execution provider, ONNX Runtime version, host.
            decoders: Images that each decoder read.

        Raises:
            CommitLostError: Another attempt committed first.
            OutputError: The rows do not balance: a part of the shard was not read, or read twice.
        """
        if self._written is None:
            raise OutputError(f"shard {self.shard}: its files were not published")
        data, quarantine = self._written
        try:
            commit = Commit(
                shard=self.shard.id,
                attempt=self.id,
                rows=self.shard.rows,
                data=data,
                quarantine=quarantine,
                filtered=filtered,
                reasons=dict(sorted(self._reasons.items())),
                seconds=dict(seconds),
                ran_on=dict(ran_on),
                decoders=dict(sorted(decoders.items())),
                started=round(self._started, 3),
                finished=round(time.time(), 3),
            )
        except ValidationError as error:
            raise OutputError(f"shard {self.shard}: {describe_validation(error)}") from None
        self._keep = True  # from here on only a sure loss makes the files garbage
        try:
            self.store.create(_commit_key(self.shard.id), commit.to_bytes())
        except FileExistsError:
            winner = OutputDirectory(self.store).commit_of(self.shard.id)
            if winner is None or winner.attempt != self.id:
                self._keep = False
                raise CommitLostError(f"shard {self.shard} was committed by another attempt") from None
        return commit

    def close(self) -> None:
        """Remove what was written, unless it was committed."""
        if not self._keep:
            for file in (self._good, self._bad):
                if file is not None:
                    file.discard()
