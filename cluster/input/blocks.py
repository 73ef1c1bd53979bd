"""Rows of a shard between reading and inference, in blocks of bounded size. Pure.

Rules:
    * A block has as many rows as the limits allow, whatever files and pages they come from: small blocks
      are joined, big ones cut. Rows keep their order.
    * A row whose image is above the limit alone is a block of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runtime.errors import ImageError

__all__ = ["Block", "BlockLimits", "Image", "packed"]

Image = bytes | Path | npt.NDArray[np.uint8] | ImageError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLimits:
    """How big a block may be.

    Attributes:
        rows: At most so many rows.
        size: At most so many bytes of images that are at hand, but for one row.
    """

    rows: int
    size: int

    @classmethod
    def within(cls, memory: int, blocks: int, row_bytes: int, rows: int) -> Self:
        """Return the limits of *blocks* blocks that fit into *memory* bytes together.

        Args:
            memory: In bytes.
            blocks: That are there at a time.
            row_bytes: Of one row, once it is ready for the model.
            rows: At most.
        """
        size = max(1, memory // blocks)
        return cls(rows=max(1, min(rows, size // max(1, row_bytes))), size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of a shard.

    Attributes:
        images: One a row: encoded bytes, a file to read, uint8 pixels (H, W, 3) RGB, what was wrong when it was
            fetched, or nothing.
        source_files: Where each row is from.
        source_rows: Its number there.
        kept: The columns that pass through; as many rows.
        filtered: How many rows did not match the filter, or are not of the sample, since the block before.
    """

    images: Sequence[Image]
    source_files: Sequence[str]
    source_rows: Sequence[int]
    kept: pa.Table
    filtered: int = 0

    def joined(self, other: Block) -> Block:
        """Return its rows and those of *other*."""
        return Block(
            images=[*self.images, *other.images],
            source_files=[*self.source_files, *other.source_files],
            source_rows=[*self.source_rows, *other.source_rows],
            kept=pa.concat_tables([self.kept, other.kept], promote_options="default"),
            filtered=self.filtered + other.filtered,
        )

    def cut(self, rows: int) -> tuple[Block, Block]:
        """Return its first *rows*, and the rest."""
        head = Block(
            images=self.images[:rows],
            source_files=self.source_files[:rows],
            source_rows=self.source_rows[:rows],
            kept=self.kept.slice(0, rows),
            filtered=self.filtered,
        )
        rest = replace(
            self,
            images=self.images[rows:],
            source_files=self.source_files[rows:],
            source_rows=self.source_rows[rows:],
            kept=self.kept.slice(rows),
            filtered=0,
        )
        return head, rest


def packed(blocks: Iterable[Block], limits: BlockLimits, wanted: Callable[[], int] | None = None) -> Iterator[Block]:
    """Yield the rows of *blocks* in blocks as big as *limits* allow; the last may only say what was filtered.

    Args:
        blocks: In order.
        limits: Of each block.
        wanted: Asked before each block how many rows it shall have at most; as many as *limits* allow if ``None``.
    """
    pending: Block | None = None
    rows = min(limits.rows, wanted()) if wanted else limits.rows
    for block in blocks:
        pending = pending.joined(block) if pending else block
        while (count := _fitting(pending.images, rows, limits.size)) is not None:
            head, pending = pending.cut(count)
            yield head
            rows = min(limits.rows, wanted()) if wanted else limits.rows
    if pending and (pending.images or pending.filtered):
        yield pending


def _fitting(images: Sequence[Image], rows: int, most: int) -> int | None:
    """Return how many of *images* make a block of *rows* or *most* bytes; ``None`` if there is room for more."""
    for count, size in enumerate(accumulate(map(_size, images)), 1):
        if size > most:
            return max(1, count - 1)
        if count == rows:
            return count
    return None


def _size(image: Image) -> int:
    match image:
        case bytes():
            return len(image)
        case np.ndarray():
            return image.nbytes
        case _:
            return 0
