"""Which rows of an input a job takes: ``--sample`` and ``--limit``. Pure.

Rules:
    * A sample is by row: each row is in it, or not, by a hash of the seed, its file's path and its number there.
      So it is the same whatever the shards, the workers and the order of the files are, and a larger
      fraction with the same seed holds all rows of a smaller one.
    * A limit is the first rows of the sample, in the order of the input; a filter comes after both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cluster.plan import InputFile, RowGroup

__all__ = ["Sample", "limited"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))
"""The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A part of all rows.

    Attributes:
        fraction: Of the rows, above 0 and at most 1.
        seed: Another one is another sample.
    """

    fraction: float
    seed: int = 0

    def rows(self, path: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return those of the rows [*start*, *stop*) of the file at *path* that are in it, ascending."""
        numbers = np.arange(start, stop, dtype=np.int64)
        digest = hashlib.sha256(f"{self.seed}\n{path}".encode()).digest()
        state = numbers.astype(np.uint64) * GOLDEN + np.uint64(int.from_bytes(digest[:8]))
        for shift, factor in MIX:
            state = (state ^ (state >> np.uint64(shift))) * factor
        state ^= state >> np.uint64(31)
        return numbers[(state >> np.uint64(11)) * 2.0**-53 < self.fraction]


def limited(files: Iterable[InputFile], limit: int, sample: Sample | None) -> Iterator[InputFile]:
    """Yield *files*, in the order of their paths, up to row number *limit* (from 1) of the *sample*, or of all."""
    left = limit
    for file in sorted(files, key=lambda file: file.path):
        rows = file.rows if sample is None else len(sample.rows(file.path, 0, file.rows))
        if rows > left:
            yield _first_rows(file, left if sample is None else int(sample.rows(file.path, 0, file.rows)[left - 1]) + 1)
            return
        yield file
        left -= rows
        if not left:
            return


def _first_rows(file: InputFile, rows: int) -> InputFile:
    groups = []
    for group in file.groups:
        taken = min(group.rows, rows)
        groups.append(RowGroup(taken, group.size * taken // max(group.rows, 1)))
        rows -= taken
    return replace(file, groups=tuple(groups))
