"""Files of a sensible size: the driver joins the small files of committed shards when all are there.

Rules:
    * Which shards go into which file follows from the commits and the size wanted, and from nothing else.
    * A merged file is committed as a shard is: it has a name that no other driver's has, and counts when
      ``_merged/NNNNN.json`` was created, put-if-absent, which names it. Drivers of one job therefore agree
      on the files, and one that is killed goes on behind the last that was committed.
    * Rows keep their order. A shard's file that is large enough is not copied: it is the output as it is.
    * Files of one partition are joined with each other only (`cluster.output.partitions`), partition by partition.
    * `AT_A_TIME` files are made at a time; memory is bounded by a row group of each.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import OutputError
from cluster.output.commit import FLUSH_BYTES, FLUSH_ROWS, OutputDirectory, TableFile
from cluster.output.partitions import by_partition
from cluster.output.records import Commit, WrittenFile, parse_record
from cluster.worker.pipeline import map_ahead

__all__ = ["FILE_BYTES", "Merger", "grouped"]

FILE_BYTES = 128 * 1024**2
AT_A_TIME = 8
SMALL = 1024**2  # bytes
MERGED = "_merged/"


def grouped(files: Sequence[WrittenFile], size: int) -> Iterator[tuple[WrittenFile, ...]]:
    """Yield all *files* in order, joined as long as they are no more than *size* bytes together.

    Files without rows join what comes before, whatever its size; at least one group is yielded if there is a file.
    """
    group: list[WrittenFile] = []
    for file in files:
        if group and file.rows and any(one.rows for one in group) and sum(one.size for one in group) + file.size > size:
            yield tuple(group)
            group = []
        group.append(file)
    if group:
        yield tuple(group)


@dataclass(frozen=True, slots=True)
class Merger:
    """Joins what shards wrote to *output* into files of about *size* bytes; a `cluster.output.commit.Merge`."""

    output: OutputDirectory
    size: int = FILE_BYTES

    def __call__(self, commits: Sequence[Commit]) -> list[WrittenFile]:
        """Return the files of the output that *commits*, in the order of the plan, make.

        Raises:
            OutputError: A shard's file is not the one that was committed.
            OSError: A file cannot be read or written.
        """
        partitions = by_partition([file for commit in commits for file in commit.files])
        groups = chain.from_iterable(grouped(files, self.size) for files in partitions)
        with ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="merge") as executor:
            return list(map_ahead(self._merged, enumerate(groups), executor, AT_A_TIME))

    def _merged(self, numbered: tuple[int, Sequence[WrittenFile]]) -> WrittenFile:
        """Return the file that holds the rows of a group: an earlier driver's, or made now."""
        number, group = numbered
        if len(group) == 1:
            return group[0]
        store, key = self.output.store, f"{MERGED}{number:05d}.json"
        if (data := store.read(key)) is not None:
            return parse_record(WrittenFile, data, store.where(key))
        name = f"part-{number:05d}-{uuid.uuid4().hex[:12]}.parquet"
        folder = group[0].path.rpartition("/")[0]
        file = TableFile(store, f"{folder}/{name}", self._schema(group), group[0].partition)
        kept = False
        try:
            for written in group:
                for table in self._tables(written):
                    file.write(table)
            merged = file.publish()
            kept = True  # from here on only a sure loss makes it garbage
            try:
                store.create(key, merged.to_bytes())
            except FileExistsError:
                winner = parse_record(WrittenFile, store.read(key) or b"", store.where(key))
                kept = winner == merged
                return winner
            return merged
        finally:
            if not kept:
                file.discard()

    def _tables(self, written: WrittenFile) -> Iterator[pa.Table]:
        """Yield the rows of *written*, at most about a row group of the output at a time."""
        rows = 0
        with self._opened(written) as parquet:
            each = max(1, min(FLUSH_ROWS, FLUSH_BYTES * max(written.rows, 1) // max(written.size, 1)))
            for batch in parquet.iter_batches(batch_size=each, use_threads=written.size > SMALL):
                rows += batch.num_rows
                yield pa.Table.from_batches([batch]).replace_schema_metadata(None)
        if rows != written.rows:
            raise OutputError(
                f"{self.output.store.where(written.path)} has {rows} rows; its commit says {written.rows}"
            )

    def _schema(self, group: Sequence[WrittenFile]) -> pa.Schema:
        """Return the schema of *group*, with all that its files say they were made with."""
        said: dict[bytes, set[bytes]] = {}
        for written in group:
            with self._opened(written) as parquet:
                schema = parquet.schema_arrow
                for name, value in (schema.metadata or {}).items():
                    said.setdefault(name, set()).add(value)
        return schema.with_metadata({name: b", ".join(sorted(values)) for name, values in sorted(said.items())})

    @contextmanager
    def _opened(self, written: WrittenFile) -> Iterator[pq.ParquetFile]:
        """Open *written*; that it is gone, another or damaged is an `OutputError` that names it."""
        where = self.output.store.where(written.path)
        try:
            with self._source(written) as (size, source):
                if size != written.size:
                    raise OutputError(f"{where} has {size} bytes; its commit says {written.size} bytes")
                with pq.ParquetFile(source) as parquet:
                    yield parquet
        except FileNotFoundError:
            raise OutputError(f"{where} is gone; its commit says {written.size} bytes") from None
        except pa.ArrowException as error:
            raise OutputError(f"{where} cannot be read: {' '.join(str(error).split())}") from None

    @contextmanager
    def _source(self, written: WrittenFile) -> Iterator[tuple[int, Any]]:
        """Yield the size of *written* in bytes, and what Arrow opens; a small file is fetched whole, in one request."""
        store = self.output.store
        if written.size <= SMALL:
            if (data := store.read(written.path)) is None:
                raise FileNotFoundError(store.where(written.path))
            yield len(data), pa.BufferReader(data)
        else:
            with closing(store.reader(written.path)) as file:
                yield file.entry.size, file.source
