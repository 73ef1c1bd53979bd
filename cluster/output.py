"""Read what a batch job wrote: through its manifest, never through a listing of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.commit import OutputDirectory
from cluster.errors import OutputError, SchemaError
from cluster.records import OutputManifest

__all__ = ["iter_output", "local_path", "read_manifest", "read_output"]


def local_path(uri: str, option: str) -> Path:
    """Return the absolute path that *uri* means.

    Raises:
        SchemaError: It is of another scheme than ``file``.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(os.path.abspath(uri))  # noqa: PTH100 - resolves ".." but no links
    if scheme != "file":
        raise SchemaError(f"{option} {uri!r}: scheme {scheme!r} is not supported yet; give a directory on a local disk")
    return Path(rest)


def read_manifest(uri: str) -> OutputManifest:
    """Return the manifest of the finished output at *uri*.

    Raises:
        OutputError: There is no output of a batch job, or its job is not finished.
    """
    directory = OutputDirectory(local_path(uri, "the output"))
    if (manifest := directory.finished()) is not None:
        return manifest
    job = directory.job()
    if job is None:
        raise OutputError(f"{directory.root} is no output of a batch job: there is no _job.json")
    raise OutputError(
        f"{directory.root} is not finished: {len(directory.commits())} of {job.shards} shards are committed; "
        "run the same `vedette batch run` again to go on"
    )


def iter_output(uri: str) -> Iterator[pa.Table]:
    """Yield the rows of the finished output at *uri*, a shard at a time, in the order of the input.

    Raises:
        OutputError: It is not finished, or a file of it is damaged.
    """
    root = local_path(uri, "the output")
    for written in read_manifest(uri).data:
        path = root / written.path
        try:
            with pq.ParquetFile(path) as file:
                table = file.read()
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        if table.num_rows != written.rows:
            raise OutputError(f"{path} has {table.num_rows} rows; the manifest says {written.rows}")
        yield table.replace_schema_metadata(None)


def read_output(uri: str | Path) -> pa.Table:
    """Return all rows of the finished output at *uri*, in the order of the input.

    Args:
        uri: What ``--output`` was.

    Raises:
        OutputError: There is no output of a batch job, it is not finished, or a file of it is damaged.
    """
    return pa.concat_tables(iter_output(str(uri)))
