"""Read what a batch job wrote: through its manifest, never through a listing of files.

Rows come in the order of the input; those of a partitioned output partition by partition, by the order of the values
(null last), and in each in the order of the input. The column of the partitions is where it would be without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import OutputError
from cluster.output.commit import OutputDirectory
from cluster.output.records import OutputManifest, WrittenFile

__all__ = ["column_batches", "iter_output", "read_manifest", "read_output"]


def read_manifest(uri: str) -> OutputManifest:
    """Return the manifest of the finished output at *uri*.

    Raises:
        OutputError: There is no output of a batch job, or its job is not finished.
    """
    return _finished(OutputDirectory.open(uri))


def _finished(output: OutputDirectory) -> OutputManifest:
    if (manifest := output.finished()) is not None:
        return manifest
    job = output.job()
    if job is None:
        raise OutputError(f"{output.uri} is no output of a batch job: there is no _job.json")
    raise OutputError(
        f"{output.uri} is not finished: {len(output.committed())} of {job.shards} shards are committed; "
        "run the same `vedette batch run` again to go on"
    )


def iter_output(uri: str) -> Iterator[pa.Table]:
    """Yield the rows of the finished output at *uri*, a file at a time, in the order that the module says.

    Raises:
        OutputError: It is not finished, or a file of it is damaged.
    """
    output = OutputDirectory.open(uri)
    manifest = _finished(output)
    for written in manifest.data:
        where = output.store.where(written.path)
        try:
            with closing(output.store.reader(written.path)) as file, pq.ParquetFile(file.source) as parquet:
                table = parquet.read()
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{where} cannot be read: {' '.join(str(error).split())}") from None
        if table.num_rows != written.rows:
            raise OutputError(f"{where} has {table.num_rows} rows; the manifest says {written.rows}")
        table = table.replace_schema_metadata(None)
        yield table if manifest.partition_by is None else manifest.partition_by.restored(table, written.partition)


def column_batches(
    parquet: pq.ParquetFile, written: WrittenFile, manifest: OutputManifest, *, columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield *columns* of a file of an output, at most *rows* rows at a time.

    Args:
        parquet: The file.
        written: What is known of it.
        manifest: Of the output.
        columns: To read; the column that the output is partitioned by is one as the others.
        rows: Of a batch.
    """
    by = manifest.partition_by
    for batch in parquet.iter_batches(rows, columns=[name for name in columns if by is None or name != by.name]):
        if by is not None and by.name in columns:
            batch = batch.append_column(by.field, by.array(written.partition, batch.num_rows))  # noqa: PLW2901
        yield batch


def read_output(uri: str | Path) -> pa.Table:
    """Return all rows of the finished output at *uri*, in the order of the input.

    Those of a partitioned output come partition by partition, in each in the order of the input.

    Args:
        uri: What ``--output`` was.

    Raises:
        OutputError: There is no output of a batch job, it is not finished, or a file of it is damaged.
    """
    return pa.concat_tables(iter_output(str(uri)))
