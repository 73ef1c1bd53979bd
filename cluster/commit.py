"""The output directory, and the protocol by which a shard's rows come to count exactly once.

    _job.json                                the job that owns the directory; put if absent
    data/<shard>-<attempt>.parquet           what an attempt wrote
    quarantine/<shard>-<attempt>.parquet     its bad rows, if there are any
    _commits/<shard>.json                    put if absent: the attempt that counts
    _manifest.json, _SUCCESS                 put last: every shard is committed and the rows balance

Rules:
    * The files of an attempt are whole and synced to the disk before its commit is tried.
    * The first commit of a shard wins, whoever tries: a retry, another worker, another driver.
      What a loser wrote is garbage, and only the loser itself may remove it.
    * Recovery deletes nothing. What a killed attempt left under a hidden name is never read.
    * Rows balance: of every shard, in = out + quarantined + filtered.
    * Readers go through ``_manifest.json`` (`cluster.output`), never through a listing of ``data/``.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from cluster.errors import CommitLostError, OtherJobError, OutputError
from cluster.plan import Shard
from cluster.records import Commit, JobRecord, OutputManifest, WrittenFile, parse_record
from cluster.schema import QUARANTINE_SCHEMA
from runtime.files import create_bytes, fsync_directory
from runtime.manifest import describe_validation

__all__ = ["Attempt", "BadRow", "OutputDirectory"]

FLUSH_ROWS = 8192  # rows of a row group of the output ...
IMAGES_PAGE = 16  # values after which the size of a page is checked, where pages hold images
FLUSH_BYTES = 16 * 1024**2  # ... or bytes, whatever comes first


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """The output place of one job, on a local disk.

    Attributes:
        root: The directory; made when the job claims it.
    """

    root: Path

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise OutputError(f"{self.root} is not a directory; give --output a new or empty one") from None

    def job(self) -> JobRecord | None:
        """Return the job that owns the directory, if there is one."""
        data = self._read("_job.json")
        return None if data is None else parse_record(JobRecord, data, self.root / "_job.json")

    def claim(self, job: JobRecord) -> None:
        """Make the directory *job*'s; fine if it is already.

        Raises:
            OtherJobError: It is another job's.
            OutputError: It holds something that no job wrote.
        """
        self.check(job)
        try:
            create_bytes(self.root / "_job.json", job.to_bytes())
        except FileExistsError:
            self.check(job)
        for name in ("data", "_commits"):
            (self.root / name).mkdir(exist_ok=True)

    def check(self, job: JobRecord) -> None:
        """Raise what `claim` would, and write nothing."""
        strangers = _visible(self.root) if self.root.is_dir() else set()
        owner = self.job()  # looked for after the listing: who claims meanwhile is no stranger
        if owner is None:
            if strangers:
                raise OutputError(
                    f"{self.root} is not empty and no batch job's (it holds {', '.join(sorted(strangers)[:3])}); "
                    "give --output a new or empty directory"
                )
            return
        if differences := owner.differences(job):
            raise OtherJobError(
                f"{self.root} belongs to another job; it differs in: {'; '.join(differences)}. "
                "Run that job, or give --output a new directory"
            )

    def commit_of(self, shard_id: str) -> Commit | None:
        """Return the commit of a shard, if it has one."""
        name = f"_commits/{shard_id}.json"
        data = self._read(name)
        return None if data is None else parse_record(Commit, data, self.root / name)

    def commits(self) -> dict[str, Commit]:
        """Return all commits by shard id."""
        directory = self.root / "_commits"
        if not directory.is_dir():
            return {}
        ids = sorted(
            entry.name[:-5] for entry in os.scandir(directory) if entry.name[0] != "." and entry.name.endswith(".json")
        )
        found = ((shard_id, self.commit_of(shard_id)) for shard_id in ids)
        return {shard_id: commit for shard_id, commit in found if commit is not None}

    @contextmanager
    def attempt(self, shard: Shard, schema: pa.Schema) -> Iterator[Attempt]:
        """Begin an attempt at *shard*, whose rows have *schema*; what it wrote is removed unless it commits."""
        attempt = Attempt(root=self.root, shard=shard, schema=schema)
        try:
            yield attempt
        finally:
            attempt.close()

    def finish(self, job: JobRecord, shards: Sequence[Shard]) -> OutputManifest:
        """Put ``_manifest.json`` and ``_SUCCESS``, if all *shards* are committed whole.

        Raises:
            OutputError: A shard is not committed, or a committed file is gone or not the one committed.
        """
        commits = self.commits()
        if missing := [shard for shard in shards if shard.id not in commits]:
            raise OutputError(f"{self.root}: {len(missing)} shards are not committed, the first is {missing[0]}")
        ordered = [commits[shard.id] for shard in shards]
        manifest = OutputManifest.of(job, ordered)
        for written in (*manifest.data, *manifest.quarantine):
            self._verify(written)
        for name, data in (("_manifest.json", manifest.to_bytes()), ("_SUCCESS", b"")):
            try:
                create_bytes(self.root / name, data)
            except FileExistsError:
                continue  # another driver of the same job was faster; the commits are the same
        return manifest

    def _verify(self, written: WrittenFile) -> None:
        path = self.root / written.path
        size = path.stat().st_size if path.is_file() else None
        if size != written.size:
            found = "is gone" if size is None else f"has {size} bytes"
            raise OutputError(f"{path} {found}; its commit says {written.size} bytes")

    def finished(self) -> OutputManifest | None:
        """Return the manifest of a finished job; ``None`` if the job is not finished."""
        if self._read("_SUCCESS") is None or (data := self._read("_manifest.json")) is None:
            return None
        return parse_record(OutputManifest, data, self.root / "_manifest.json")


def _visible(root: Path) -> set[str]:
    return {entry.name for entry in os.scandir(root) if not entry.name.startswith(".")}


class BadRow(NamedTuple):
    """A row that cannot be used, as it stands in quarantine."""

    source_file: str
    source_row: int
    reason: str
    detail: str


class _TableFile:
    """A Parquet file that is invisible until it is whole and synced to the disk."""

    def __init__(self, root: Path, name: str, schema: pa.Schema) -> None:
        self._final = root / name
        self._final.parent.mkdir(exist_ok=True)
        self._hidden = self._final.with_name(f".{self._final.name}.tmp")
        self._name = name
        self._file: IO[bytes] = self._hidden.open("wb")
        images = any(_holds_binary(field.type) for field in schema)
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression="none" if images else "zstd",  # encoded images do not compress
            write_batch_size=IMAGES_PAGE if images else None,
        )
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._pending_rows = self._pending_bytes = self._rows = 0

    def write(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._pending_bytes += table.nbytes
        if self._pending_rows >= FLUSH_ROWS or self._pending_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending_rows:
            self._writer.write_table(pa.concat_tables(self._pending).cast(self._schema))
        self._rows += self._pending_rows
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def publish(self) -> WrittenFile:
        """Make the file visible under its name; durable when this returns."""
        self._flush()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        self._hidden.rename(self._final)
        fsync_directory(self._final.parent)
        return WrittenFile(path=self._name, rows=self._rows, size=size)

    def discard(self) -> None:
        """Remove the file, visible or not; it counts nowhere."""
        for close in (self._writer.close, self._file.close):
            with suppress(OSError, ValueError, pa.ArrowException):  # a full disk refuses the last bytes; no loss
                close()
        self._hidden.unlink(missing_ok=True)
        self._final.unlink(missing_ok=True)


def _holds_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_binary(inner.type) for inner in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@dataclass(slots=True)
class Attempt:
    """One try at one shard.

    Attributes:
        root: The output directory.
        shard: What is tried.
        schema: Of the output's rows.
        id: Names the files of this try; no other has it.
    """

    root: Path
    shard: Shard
    schema: pa.Schema
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _files: dict[str, _TableFile] = field(default_factory=dict)
    _written: dict[str, WrittenFile] = field(default_factory=dict)
    _reasons: Counter[str] = field(default_factory=Counter)
    _keep: bool = False

    def _table_file(self, folder: str, schema: pa.Schema) -> _TableFile:
        if folder not in self._files:
            self._files[folder] = _TableFile(self.root, f"{folder}/{self.shard.id}-{self.id}.parquet", schema)
        return self._files[folder]

    def write(self, table: pa.Table) -> None:
        """Add the rows of *table* to the output."""
        self._table_file("data", self.schema).write(table)

    def quarantine(self, rows: Sequence[BadRow]) -> None:
        """Set bad *rows* aside."""
        if rows:
            columns = [
                pa.array(column, kind.type)
                for column, kind in zip(zip(*rows, strict=True), QUARANTINE_SCHEMA, strict=True)
            ]
            self._table_file("quarantine", QUARANTINE_SCHEMA).write(pa.table(columns, schema=QUARANTINE_SCHEMA))
            self._reasons.update(row.reason for row in rows)

    def publish(self) -> None:
        """Make the files of this attempt whole and durable; nothing can be written after that."""
        self._table_file("data", self.schema)  # a shard without good rows has a file, too
        self._written = {folder: file.publish() for folder, file in self._files.items()}

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
        try:
            commit = Commit(
                shard=self.shard.id,
                attempt=self.id,
                rows=self.shard.rows,
                data=self._written["data"],
                quarantine=self._written.get("quarantine"),
                filtered=filtered,
                reasons=dict(sorted(self._reasons.items())),
                seconds=dict(seconds),
                ran_on=dict(ran_on),
                decoders=dict(sorted(decoders.items())),
            )
        except ValidationError as error:
            raise OutputError(f"shard {self.shard}: {describe_validation(error)}") from None
        self._keep = True  # from here on only a sure loss makes the files garbage
        path = self.root / "_commits" / f"{self.shard.id}.json"
        try:
            create_bytes(path, commit.to_bytes())
        except FileExistsError:
            if parse_record(Commit, path.read_bytes(), path).attempt != self.id:
                self._keep = False
                raise CommitLostError(f"shard {self.shard} was committed by another attempt") from None
        return commit

    def close(self) -> None:
        """Remove what was written, unless it was committed."""
        if not self._keep:
            for file in self._files.values():
                file.discard()
