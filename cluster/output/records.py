"""What a batch job writes down beside its rows, as JSON: the job, the commits, the manifest of the output.

Rules:
    * `Commit` and `OutputManifest` cannot be made of numbers that do not balance:
      in = out + quarantined + filtered.
    * Two drivers of the same job write the same bytes of `JobRecord` and `OutputManifest`: no clock,
      host or process id is in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.errors import OutputError
from cluster.output.partitions import PartitionColumn, Value, by_partition
from runtime.manifest import describe_validation

__all__ = ["Commit", "JobRecord", "OutputManifest", "WrittenFile", "parse_record"]

FORMAT = 1


class Record(BaseModel):
    """A frozen document; unknown keys are ignored on read."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def to_bytes(self) -> bytes:
        """Return it as UTF-8 JSON."""
        return (self.model_dump_json(indent=1, by_alias=True) + "\n").encode()


class _OfModels(Record):
    """A record that names the models of its job.

    Attributes:
        models: By ``NAME@VERSION``, in the order in which they were given: digest of the model's manifest.
    """

    models: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _of_one(cls, found: Any) -> Any:
        """Take records of the time when a job had one model: ``model`` and ``model_sha256``."""
        if isinstance(found, dict) and "models" not in found and {"model", "model_sha256"} <= found.keys():
            return {**found, "models": {found["model"]: found["model_sha256"]}}
        return found

    @property
    def model(self) -> str:
        """The models, for people."""
        return ", ".join(self.models)


class JobRecord(_OfModels):
    """Whose the output directory is: everything that decides what is written there, and nothing else.

    Attributes:
        input: URI of the input.
        files: By path: (etag, rows).
        options: By option: what else decides the output (columns, filter, shard limits).
        shards: How many shards there are.
        partition_by: The column that the output is partitioned by, if it is.
    """

    format: int = FORMAT
    input: str
    files: dict[str, tuple[str, int]]
    options: dict[str, Any]
    shards: int
    partition_by: PartitionColumn | None = None

    @property
    def rows(self) -> int:
        """How many rows go in."""
        return sum(rows for _, rows in self.files.values())

    def differences(self, other: JobRecord) -> list[str]:
        """Return in words how *other* differs from this; nothing if it is the same job."""
        found = []
        if list(self.models.values()) != list(other.models.values()):
            found.append(f"model {self.model} (now {other.model})")
        if self.input != other.input:
            found.append(f"input {self.input} (now {other.input})")
        else:
            found += _file_differences(self.files, other.files)
        for name in sorted({*self.options, *other.options}):
            if self.options.get(name) != other.options.get(name):
                found.append(f"{name} {self.options.get(name)!r} (now {other.options.get(name)!r})")
        if not found and self.to_bytes() != other.to_bytes():
            found.append(f"format {self.format} with {self.shards} shards (now {other.format} with {other.shards})")
        return found


def _file_differences(old: Mapping[str, tuple[str, int]], new: Mapping[str, tuple[str, int]]) -> list[str]:
    kinds = (
        ("gone", sorted(old.keys() - new.keys())),
        ("added", sorted(new.keys() - old.keys())),
        ("changed", sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
    )
    return [f"{len(paths)} input file(s) {kind}, the first is {paths[0]}" for kind, paths in kinds if paths]


class WrittenFile(Record):
    """A Parquet file of the output: its path below the directory, rows, size in bytes.

    ``partition`` is the column that is in its path alone, with the value of all its rows.
    """

    path: str
    rows: int
    size: int
    partition: dict[str, Value] | None = None


class Commit(Record):
    """Which attempt of a shard counts, and what it did.

    Attributes:
        rows: Of the shard.
        data: Its good rows: one file, or those of a partitioned output, one or more of each partition that occurs.
        filtered: Rows that the filter left out.
        reasons: Quarantined rows by reason code.
        seconds: Busy seconds by stage.
        ran_on: Variant, execution provider, ONNX Runtime version, host; see `ShardWorker.ran_on`.
        decoders: Good images by what decoded them (`runtime.images.Decoded.decoder`).
        started: When the attempt began, by its machine's clock, in seconds since 1970; ``None`` in old commits.
        finished: When it committed.
    """

    shard: str
    attempt: str
    rows: int
    data: WrittenFile | tuple[WrittenFile, ...]
    quarantine: WrittenFile | None = None
    filtered: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    ran_on: dict[str, str] = Field(default_factory=dict)
    decoders: dict[str, int] = Field(default_factory=dict)
    started: float | None = None
    finished: float | None = None

    @property
    def files(self) -> tuple[WrittenFile, ...]:
        """The files that hold its good rows."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def out(self) -> int:
        """How many good rows there are."""
        return sum(file.rows for file in self.files)

    @property
    def partitions(self) -> frozenset[Value]:
        """The values that its rows are partitioned by; none if they are not, and if there are no rows."""
        return frozenset(value for file in self.files if file.rows for value in (file.partition or {}).values())

    @property
    def quarantined(self) -> int:
        """How many rows are in quarantine."""
        return self.quarantine.rows if self.quarantine else 0

    @model_validator(mode="after")
    def _balances(self) -> Self:
        if self.rows != self.out + self.quarantined + self.filtered:
            raise ValueError(
                f"shard {self.shard}: {self.rows} rows in, but {self.out} out + {self.quarantined} quarantined "
                f"+ {self.filtered} filtered"
            )
        return self


class OutputManifest(_OfModels):
    """What a finished output holds; the rows in all, and the files that count, in the order of the input.

    A partitioned output's are partition by partition, in each in the order of the input (`by_partition`).
    """

    format: int = FORMAT
    input: str
    rows: dict[str, int]  # in, out, quarantined, filtered
    reasons: dict[str, int]
    data: tuple[WrittenFile, ...]
    quarantine: tuple[WrittenFile, ...]
    partition_by: PartitionColumn | None = None

    @classmethod
    def of(cls, job: JobRecord, commits: Sequence[Commit], data: Sequence[WrittenFile] | None = None) -> Self:
        """Return the manifest of *job* whose shards have these *commits*, in the order of the plan.

        Args:
            job: Whose output it is.
            commits: Of all its shards.
            data: The files that hold the rows; those of the commits if ``None``.

        Raises:
            OutputError: Rows are missing.
        """
        rows = {
            "in": sum(commit.rows for commit in commits),
            "out": sum(commit.out for commit in commits),
            "quarantined": sum(commit.quarantined for commit in commits),
            "filtered": sum(commit.filtered for commit in commits),
        }
        if rows["in"] != job.rows or len(commits) != job.shards:
            raise OutputError(
                f"{len(commits)} commits hold {rows['in']} rows; the input has {job.rows} rows in {job.shards} shards"
            )
        written = [file for commit in commits for file in commit.files]
        files = tuple(chain.from_iterable(by_partition(written)) if data is None else data)
        if (held := sum(file.rows for file in files)) != rows["out"]:
            raise OutputError(f"the merged files hold {held} rows; the commits have {rows['out']}")
        reasons: Counter[str] = Counter()
        for commit in commits:
            reasons.update(commit.reasons)
        return cls(
            models=job.models,
            input=job.input,
            rows=rows,
            reasons=dict(sorted(reasons.items())),
            data=files,
            quarantine=tuple(commit.quarantine for commit in commits if commit.quarantine),
            partition_by=job.partition_by,
        )


R = TypeVar("R", bound=Record)


def parse_record(kind: type[R], data: bytes, where: str) -> R:
    """Return the *kind* of record in *data*.

    Args:
        kind: Which record it is.
        data: UTF-8 JSON.
        where: Its path or URL, for the error text.

    Raises:
        OutputError: It is no such record.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise OutputError(f"{where} is damaged: {describe_validation(error)}") from None
