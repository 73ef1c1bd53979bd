"""Some bad rows of each reason, with what can be seen of them.

Rules:
    * At most `EACH` rows a reason are taken, and of at most `MOST_BYTES` an image.
    * Only images of the input's own files and of this machine's are looked at, none by URL.
    * What cannot be read any more has no picture; that is no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.output.commit import BadRow, OutputDirectory
from cluster.output.records import OutputManifest
from cluster.report.glimpse import glimpses
from cluster.storage import is_remote
from cluster.storage.inputs import Places
from runtime.errors import VedetteError

__all__ = ["Example", "examples_of"]

EACH = 4  # rows a reason
VISIBLE = frozenset({"truncated", "too_large", "unsupported"})  # reasons of which something may be seen
MOST_BYTES = 64 * 1024**2
ROWS = 16  # of an input's images in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A bad row, and a JPEG of what can be seen of it; empty if nothing."""

    row: BadRow
    jpeg: bytes


def examples_of(output: OutputDirectory, manifest: OutputManifest, image_column: str | None) -> list[Example]:
    """Return bad rows of a finished output, up to `EACH` of each reason, the most frequent reason first.

    Args:
        output: Where they are in quarantine.
        manifest: Of the output.
        image_column: Of the input, where it is Parquet.

    Raises:
        OSError: Quarantine cannot be read.
        pa.ArrowException: It is damaged.
    """
    chosen: dict[str, list[BadRow]] = {
        reason: [] for reason, _ in sorted(manifest.reasons.items(), key=lambda one: (-one[1], one[0]))
    }
    for row in _quarantined(output, manifest):
        if len(rows := chosen.setdefault(row.reason, [])) < EACH:
            rows.append(row)
        if all(len(rows) >= min(EACH, manifest.reasons.get(reason, EACH)) for reason, rows in chosen.items()):
            break
    listed = [row for rows in chosen.values() for row in rows]
    places = Places()
    data = [_bytes_of(row, image_column, places) if row.reason in VISIBLE else b"" for row in listed]
    looked_at = [index for index, one in enumerate(data) if one]
    seen = dict(zip(looked_at, glimpses([data[index] for index in looked_at]), strict=True))
    return [Example(row=row, jpeg=seen.get(index, b"")) for index, row in enumerate(listed)]


def _quarantined(output: OutputDirectory, manifest: OutputManifest) -> Iterator[BadRow]:
    for written in manifest.quarantine:
        with closing(output.store.reader(written.path)) as file, pq.ParquetFile(file.source) as parquet:
            for batch in parquet.iter_batches():
                yield from (BadRow(**row) for row in batch.to_pylist())


def _bytes_of(row: BadRow, image_column: str | None, places: Places) -> bytes:
    """Return the encoded image of *row*; nothing where it cannot be had."""
    try:
        if image_column is None:
            return _small(Path(row.source_file))
        cell = _cell(row, image_column, places)
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str):
            remote = is_remote(cell) or is_remote(row.source_file)
            return b"" if remote else _small(Path(row.source_file).parent / cell.removeprefix("file://"))
        return cell if isinstance(cell, bytes) and len(cell) <= MOST_BYTES else b""
    except (VedetteError, OSError, pa.ArrowException):
        return b""


def _small(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() and path.stat().st_size <= MOST_BYTES else b""


def _cell(row: BadRow, column: str, places: Places) -> Any:
    """Return what the input has in *column* of *row*; of its file, one row group is read up to there."""
    with closing(places.reader(row.source_file)) as file, pq.ParquetFile(file.source, pre_buffer=False) as parquet:
        position, group = 0, 0
        while position + (rows := parquet.metadata.row_group(group).num_rows) <= row.source_row:
            position, group = position + rows, group + 1
        for batch in parquet.iter_batches(ROWS, row_groups=[group], columns=[column]):
            if row.source_row < position + batch.num_rows:
                return batch.column(0)[row.source_row - position].as_py()
            position += batch.num_rows
    return None
