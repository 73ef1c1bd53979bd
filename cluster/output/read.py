"""Read what a batch job wrote: through its manifest, never through a listing of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import OutputError
from cluster.output.commit import OutputDirectory
from cluster.output.records import OutputManifest

__all__ = ["iter_output", "read_manifest", "read_output"]


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
    """Yield the rows of the finished output at *uri*, a shard at a time, in the order of the input.

    Raises:
        OutputError: It is not finished, or a file of it is damaged.
    """
    output = OutputDirectory.open(uri)
    for written in _finished(output).data:
        where = output.store.where(written.path)
        try:
            with closing(output.store.reader(written.path)) as file, pq.ParquetFile(file.source) as parquet:
                table = parquet.read()
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{where} cannot be read: {' '.join(str(error).split())}") from None
        if table.num_rows != written.rows:
            raise OutputError(f"{where} has {table.num_rows} rows; the manifest says {written.rows}")
        yield table.replace_schema_metadata(None)


def read_output(uri: str | Path) -> pa.Table:
    """Return all rows of the finished output at *uri*, in the order of the input.

    Args:
        uri: What ``--output`` was.

    Raises:
        OutputError: There is no output of a batch job, it is not finished, or a file of it is damaged.
    """
    return pa.concat_tables(iter_output(str(uri)))
