"""From rows of a shard to batches that are ready for the model, in whatever process that happens.

Rules:
    * Nothing here needs a session: a worker has one besides, a decode actor (`cluster.pool.decode_actors`) has none.
    * A row that holds no usable image is told apart, with its reason; any other error is the caller's.
    * Rows that are spared are never looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.dispatch.crashes import Part, pieces
from cluster.input.blocks import Block, BlockLimits, Image
from cluster.input.readers import READERS, Reader, shard_blocks
from cluster.output.commit import BadRow
from cluster.plan import Shard
from cluster.worker.batches import Filling
from cluster.worker.spec import WorkerSpec
from runtime.errors import ImageError
from runtime.images import Decoded
from runtime.preparation import Preparation

__all__ = ["Prepared", "Preparer", "Rows"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A block whose good rows are ready for the models."""

    inputs: list[npt.NDArray[np.generic]]  # of each model, (n, ...); none if no row is good
    sizes: list[tuple[int, int]]  # (height, width) of the n upright originals
    columns: list[pa.Array]  # kept columns and source of the n rows
    decoders: Counter[str]  # how many of the n images each decoder read
    bad: list[BadRow]
    filtered: int

    @property
    def rows(self) -> int:
        """How many rows of the input these are, the bad and the filtered ones too."""
        return len(self.sizes) + len(self.bad) + self.filtered


@dataclass(frozen=True, slots=True)
class Rows:
    """What is to be read: *part* of *shard* but for the rows that are *spared*, in blocks of a *share* of the size."""

    shard: Shard
    part: Part
    spared: frozenset[int]
    share: int


class Preparer:
    """Reads, decodes and prepares rows; used by several threads at a time.

    Args:
        spec: Says what is read, and how.
        preparations: Of the models; asked for each block, since a worker's session may be another one by then.
        decoder: What decodes, or is asked first.
    """

    def __init__(
        self, spec: WorkerSpec, preparations: Callable[[], Sequence[Preparation]], decoder: str = "cpu"
    ) -> None:
        self._readers: Mapping[str, Reader] = {name: make(spec.columns, spec.fetch) for name, make in READERS.items()}
        self._preparations = preparations
        self._decoder = decoder

    def blocks(self, rows: Rows, limits: BlockLimits, wanted: Callable[[], int]) -> Iterator[tuple[Block, bool]]:
        """Yield *rows* in blocks, each with whether its images may be looked at.

        Args:
            rows: To read.
            limits: Of each block.
            wanted: Asked before each block how many rows it shall have.

        Raises:
            InputChangedError: The file is not the one that was planned.
            InputError: The file is damaged.
        """
        for part, usable in pieces(rows.part, rows.spared):
            for block in shard_blocks(self._readers, rows.shard.part(*part), limits, wanted):
                yield block, usable

    def prepare(self, block: Block, *, usable: bool = True) -> Prepared:
        """Load the images of *block* and bring them to the models' inputs; of one that is not *usable* none.

        A row that is no good for one model is none for all.

        Raises:
            ModelError: The pictures become inputs of different sizes.
        """
        preparations = self._preparations()
        good: list[int] = []
        fillings = [Filling(preparation, len(block.images)) for preparation in preparations]
        sizes, bad = [], []
        decoders = Counter[str]()
        for index, image in enumerate(block.images):
            try:
                pictures = self._load(preparations, image, usable=usable)
                for filling, picture in zip(fillings, pictures, strict=True):
                    filling.add(picture.pixels)
            except ImageError as error:
                for filling in fillings:
                    filling.cut(len(good))
                bad.append(BadRow(block.source_files[index], block.source_rows[index], error.reason, error.detail))
                continue
            good.append(index)
            sizes.append(pictures[0].size)
            decoders[pictures[0].decoder] += 1
        kept = block.kept.take(pa.array(good, pa.int64())) if bad else block.kept
        # As columns, because a table without any column forgets how many rows it has.
        columns = [
            *kept.columns,
            pa.array([block.source_files[i] for i in good], pa.string()),
            pa.array([block.source_rows[i] for i in good], pa.int64()),
        ]
        inputs = [batch for filling in fillings if good and (batch := filling.batch) is not None]
        return Prepared(inputs, sizes, columns, decoders, bad, block.filtered)

    def _load(self, preparations: Sequence[Preparation], image: Image, *, usable: bool) -> list[Decoded]:
        """Return *image* for each of *preparations*, decoded once for all that have one background."""
        if not usable:
            raise ImageError("crashed_worker", "the process that decodes or infers this row dies")
        if image is None:
            raise ImageError("missing", "the image is null")
        if isinstance(image, ImageError):
            raise image
        seen: dict[tuple[int, int, int], Decoded] = {}
        for one in preparations:
            if one.background not in seen:
                seen[one.background] = one.load(image, decoder=self._decoder)
        return [seen[one.background] for one in preparations]
