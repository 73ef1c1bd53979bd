"""What can go wrong in a batch job, as one tree below `runtime.errors.VedetteError`.

VedetteError
├── UsageError
│   ├── FilterError            a ``--filter`` expression cannot be parsed, or does not fit the columns
│   ├── SchemaError            columns that are missing, clash, or have a type that holds no images
│   └── WorkersError           a ``--workers`` specification cannot be parsed
└── BatchError
    ├── InputError             the input is empty, corrupt, or not a dataset
    ├── InputChangedError      a file is not the one that was planned
    ├── OutputError            the output holds something else, is not finished, or cannot be written
    │   └── PartitionError     too many values to partition by, or one that no folder can be called by
    ├── StorageError           an object store refused, or did not answer; another try may help
    ├── OtherJobError          the output belongs to another job; the text names the difference
    ├── CommitLostError        another attempt committed this shard first (no failure: its rows count)
    ├── ShardError             one shard failed more often than it may
    ├── TooManyBadRowsError    more rows were quarantined than ``--max-bad-rows`` allows
    ├── PoolError              no worker could be started, or none is left
    ├── UnansweredError        a decode actor did not answer; its rows are decoded by who asked
    ├── StoppedError           SIGINT or SIGTERM ended the driver
    └── JobServerError         Ray's job server cannot be reached, refuses, or knows no such job
"""

from __future__ import annotations

from typing import ClassVar

from runtime.errors import UsageError, VedetteError

__all__ = [
    "BatchError",
    "CommitLostError",
    "FilterError",
    "InputChangedError",
    "InputError",
    "JobServerError",
    "OtherJobError",
    "OutputError",
    "PartitionError",
    "PoolError",
    "SchemaError",
    "ShardError",
    "StoppedError",
    "StorageError",
    "TooManyBadRowsError",
    "UnansweredError",
    "WorkersError",
]


class FilterError(UsageError):
    """A ``--filter`` expression cannot be parsed, or does not fit the input's columns."""


class SchemaError(UsageError):
    """Columns that are missing, clash with the output's, or have a type that holds no images."""


class WorkersError(UsageError):
    """A ``--workers`` specification cannot be parsed."""


class BatchError(VedetteError):
    """Base of what goes wrong while a batch job is planned or runs."""


class InputError(BatchError):
    """The input is empty, corrupt, or not a dataset."""


class InputChangedError(BatchError):
    """An input file is not the one that was planned: its size or modification time differs."""


class OutputError(BatchError):
    """The output place holds something else, is not finished, or cannot be written."""


class PartitionError(OutputError):
    """The values of the column to partition by are too many, or one is too long to be the name of a folder."""


class StorageError(BatchError):
    """An object store refused, or did not answer after all retries; another try of the shard may help."""


class OtherJobError(BatchError):
    """The output belongs to a job with another model, input or options."""


class CommitLostError(BatchError):
    """Another attempt committed the shard first; its rows count, ours do not."""


class ShardError(BatchError):
    """One shard failed more often than it may; the text names it and the last failure."""


class TooManyBadRowsError(BatchError):
    """More rows were quarantined than the job allows."""


class PoolError(BatchError):
    """No worker could be started, or none is left."""


class UnansweredError(BatchError):
    """A decode actor did not answer: it died, failed, or took too long. Whoever asked does its work."""


class FilesMissingError(BatchError):
    """A worker's machine does not have the files of a model; it is started again, with them."""


class StoppedError(BatchError):
    """SIGINT or SIGTERM ended the driver; what was committed stays."""

    exit_code: ClassVar[int] = 130


class JobServerError(BatchError):
    """Ray's job server cannot be reached, refuses, or knows no such job."""
