"""Partitions of an output as Hive and Spark lay them out: ``data/site=lab/part-....parquet``, by one kept column.

Rules:
    * The column is in the path and not in the files, as every reader of such folders expects. Its type and its place
      among the columns stand in the job's record and in the manifest, the value of each file beside the file.
    * A folder is called ``NAME=VALUE``, what Hive escapes as ``%XX``. Null is ``__HIVE_DEFAULT_PARTITION__``; so are,
      in the path alone, the empty text and a text that reads like that: to our readers they are what they were.
    * Text, integers, booleans and dates make partitions: what has one spelling, and few values. More of them than a
      job allows end it.
    * The files of a job are read partition by partition, in the order of the values, null last; within a partition
      in the order of the input.
    * A file without rows is of no value. One is left where a whole output has no rows, as that of null.
    * Memory is bounded: when an attempt holds `HELD_BYTES` or `HELD_ROWS`, it writes a whole file of each value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr

from cluster.errors import PartitionError, SchemaError
from cluster.worker.pipeline import map_ahead

if TYPE_CHECKING:
    from cluster.output.commit import TableFile
    from cluster.output.records import WrittenFile
    from cluster.output.schema import Kept

__all__ = [
    "MOST_PARTITIONS",
    "NULL",
    "Partition",
    "PartitionColumn",
    "PartitionedFiles",
    "Partitioning",
    "Value",
    "by_partition",
    "check_number",
    "partition_column",
]

MOST_PARTITIONS = 1000  # of a job, unless it is told otherwise
NULL = "__HIVE_DEFAULT_PARTITION__"
ESCAPED = frozenset("\"#%'*/:=?\\{[]^\x7f") | {chr(code) for code in range(32)}  # Hive: FileUtils.charToEscape
LONGEST = 255  # bytes that the name of a folder may have
HELD_BYTES = 32 * 1024**2
HELD_ROWS = 65_536
WRITERS = 8  # files of an attempt that are written at a time

Value = StrictBool | StrictInt | StrictStr | None
"""Of a partition, as JSON has it; a date is its ISO text."""

Partition = Mapping[str, Value]
"""Of a file: the column, by its name in the output, and the value of all its rows."""

INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
TEXTS, DATES = (pa.string(), pa.large_string()), (pa.date32(), pa.date64())
TYPES: Mapping[str, pa.DataType] = {str(kind): kind for kind in (*TEXTS, *INTEGERS, pa.bool_(), *DATES)}
"""What may be a partition column, by its name; a dictionary of these, too."""


class PartitionColumn(BaseModel):
    """The column that an output is partitioned by.

    Attributes:
        name: In the output.
        type: Of its values; a key of `TYPES`.
        indices: Type of its indices, where it is a dictionary.
        nullable: Whether it may be null.
        place: Which of the columns it is, from 0.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    type: str
    indices: str | None = None
    nullable: bool = True
    place: int

    @classmethod
    def of(cls, schema: pa.Schema, name: str) -> Self:
        """Return the column *name* of the output's *schema* as what to partition by.

        Raises:
            SchemaError: Its type or its name is none that can be told from a path.
        """
        place = schema.get_field_index(name)
        field = schema.field(place)
        kind, indices = field.type, None
        if pa.types.is_dictionary(kind):
            kind, indices = kind.value_type, str(kind.index_type)
        if str(kind) not in TYPES:
            raise SchemaError(
                f"--partition-by: column {name!r} is {field.type}; a partition is of text, integers, booleans or dates"
            )
        if name.startswith(("_", ".")) or ESCAPED.intersection(name):
            raise SchemaError(
                f"--partition-by: a folder that is called {name}=... is not read by every tool; give the column "
                "another name: --keep COLUMN=NAME"
            )
        return cls(name=name, type=str(kind), indices=indices, nullable=field.nullable, place=place)

    @property
    def field(self) -> pa.Field:
        """The column as it is in the rows."""
        kind = TYPES[self.type]
        if self.indices is not None:
            kind = pa.dictionary(TYPES[self.indices], kind)
        return pa.field(self.name, kind, nullable=self.nullable)

    def folder(self, value: Value) -> str:
        """Return the name of the folder of *value*.

        Raises:
            PartitionError: It would be longer than file systems allow.
        """
        text = str(value).lower() if isinstance(value, bool) else str(value)
        escaped = "".join(f"%{ord(sign):02X}" if sign in ESCAPED else sign for sign in text)
        name = f"{self.name}={NULL if value is None else escaped or NULL}"
        if (size := len(name.encode())) > LONGEST:
            raise PartitionError(
                f"--partition-by {self.name}: the value {text[:40]!r}... makes a folder whose name has {size} bytes; "
                f"expected at most {LONGEST}. Partition by another column"
            )
        return name

    def values(self, table: pa.Table) -> list[Value]:
        """Return the value of each row of *table*."""
        values = table.column(self.place).to_pylist()
        return [value.isoformat() if isinstance(value, date) else value for value in values]

    def split(self, table: pa.Table) -> Iterator[tuple[Value, pa.Table]]:
        """Yield by value, in order, the rows of *table* that have it, without the column; their order is kept."""
        rows: dict[Value, list[int]] = {}
        for row, value in enumerate(self.values(table)):
            rows.setdefault(value, []).append(row)
        rest = table.remove_column(self.place).combine_chunks()
        for value in sorted(rows, key=_order):
            yield value, rest if len(rows) == 1 else rest.take(pa.array(rows[value], pa.int64()))

    def restored(self, table: pa.Table, partition: Partition | None) -> pa.Table:
        """Return *table*, the rows of a file of *partition*, with the column in its place."""
        return table.add_column(self.place, self.field, self.array(partition, table.num_rows))

    def array(self, partition: Partition | None, rows: int) -> pa.Array:
        """Return the column of *rows* rows of a file of *partition*."""
        value: Any = (partition or {}).get(self.name)
        kind = self.field.type
        if value is None:
            return pa.nulls(rows, kind)
        if TYPES[self.type] in DATES:
            value = date.fromisoformat(value)
        if self.indices is None:
            return pa.repeat(pa.scalar(value, kind), rows)
        indices = pa.repeat(pa.scalar(0, kind.index_type), rows)
        return pa.DictionaryArray.from_arrays(indices, pa.array([value], kind.value_type))


def _order(value: Value) -> tuple[bool, Any]:
    """Return what values of one column are sorted by: as numbers, dates, or text by code points; null last."""
    return value is None, value


def partition_column(schema: pa.Schema, kept: Iterable[Kept], column: str | None) -> PartitionColumn | None:
    """Return how the output of *schema* is partitioned by the input's *column*; ``None`` if by none.

    Args:
        schema: Of the output's rows.
        kept: The columns that pass through; *column* is one of them.
        column: As the input calls it.

    Raises:
        SchemaError: It is no name of a column, or its type or its name is none that can be told from a path.
    """
    if column is None:
        return None
    name = next((one.name for one in kept if one.column == column), None)
    if name is None:
        raise SchemaError(
            f"--partition-by {column!r}: expected a column of the input; what the output calls it is said by "
            "--keep COLUMN=NAME"
        )
    return PartitionColumn.of(schema, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitioning:
    """How an attempt partitions its rows.

    Attributes:
        column: By which.
        most: So many values at most.
    """

    column: PartitionColumn
    most: int = MOST_PARTITIONS


def check_number(column: str, number: int, most: int) -> None:
    """Raise `PartitionError` if *number* different values of *column* are more than *most*."""
    if number > most:
        raise PartitionError(
            f"--partition-by {column}: the column has {number} different values or more; --max-partitions allows "
            f"{most}. Every one is a folder with files of its own: raise the bound to go on, or partition by a column "
            "of fewer values into a new --output"
        )


class Partitioned(Protocol):
    """A file whose rows may be of one partition."""

    @property
    def partition(self) -> Partition | None:
        """Which; ``None`` where the output has none."""

    @property
    def rows(self) -> int:
        """How many it has."""


F = TypeVar("F", bound=Partitioned)


def by_partition(files: Sequence[F]) -> list[list[F]]:
    """Return *files*, which are in the order of the plan, by partition, in the order in which they are read.

    Files without partitions are one list. Of a partitioned output those without rows are left out, all but one of
    them where there are no others.
    """
    if any(file.partition is None for file in files):
        return [list(files)]
    found: dict[Any, list[F]] = {}
    for file in [file for file in files if file.rows] or files[:1]:
        found.setdefault(_order(next(iter((file.partition or {}).values()), None)), []).append(file)
    return [found[key] for key in sorted(found)]


class PartitionedFiles:
    """What an attempt writes: files of one value each, at least one of every value that occurs."""

    def __init__(
        self,
        how: Partitioning,
        schema: pa.Schema,
        name: str,
        make: Callable[[str, pa.Schema, Partition], TableFile],
    ) -> None:
        """Begin.

        Args:
            how: To partition.
            schema: Of the rows.
            name: What the files' names begin with; no other attempt has it.
            make: Begins a file, given its key below the place, its schema, and its partition.
        """
        self._how, self._name, self._make = how, name, make
        self._schema = schema.remove(how.column.place)
        self._seen: set[Value] = set()
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        self._numbers = count()
        self._begun: list[TableFile] = []
        self._written: list[WrittenFile] = []

    def write(self, table: pa.Table) -> None:
        """Add the rows of *table*.

        Raises:
            PartitionError: There are too many values.
        """
        column = self._how.column
        self._seen.update(column.values(table))
        check_number(column.name, len(self._seen), self._how.most)
        self._held.append(table)
        self._held_rows += table.num_rows
        self._held_bytes += table.nbytes
        if self._held_rows >= HELD_ROWS or self._held_bytes >= HELD_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write what is held, each value's rows to a file that is whole and durable then."""
        if not self._held:
            return
        parts = self._how.column.split(pa.concat_tables(self._held))
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="partition") as executor:
            self._written += map_ahead(self._write, parts, executor, WRITERS)

    def _write(self, part: tuple[Value, pa.Table]) -> WrittenFile:
        value, table = part
        file = self._begin(value)
        file.write(table)
        return file.publish()

    def _begin(self, value: Value) -> TableFile:
        column = self._how.column
        key = f"data/{column.folder(value)}/{self._name}-{next(self._numbers):04d}.parquet"
        file = self._make(key, self._schema, {column.name: value})
        self._begun.append(file)
        return file

    def publish(self) -> tuple[WrittenFile, ...]:
        """Make all files visible under their names; durable when this returns."""
        self._flush()
        if not self._written:
            self._written.append(self._begin(None).publish())
        return tuple(self._written)

    def discard(self) -> None:
        """Remove all files, visible or not; they count nowhere."""
        for file in self._begun:
            file.discard()
