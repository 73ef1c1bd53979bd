from __future__ import annotations

from itertools import cycle, zip_longest

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cluster.input.blocks import Block, BlockLimits, packed


def block_of(images, first, filtered):
    numbers = list(range(first, first + len(images)))
    kept = pa.table({"number": pa.array(numbers, pa.int64())})
    return Block(images=images, source_files=["/in"] * len(images), source_rows=numbers, kept=kept, filtered=filtered)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 3)), max_size=8),
    st.integers(1, 10),
    st.integers(1, 100),
    st.none() | st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_packing_keeps_rows_in_order_and_blocks_within_limits(given_blocks, rows, size, sizes):
    blocks, first = [], 0
    for lengths, filtered in given_blocks:
        blocks.append(block_of([b"x" * length for length in lengths], first, filtered))
        first += len(lengths)
    turns = cycle(sizes or [rows])
    found = list(packed(blocks, BlockLimits(rows=rows, size=size), (lambda: next(turns)) if sizes else None))
    assert [row for block in found for row in block.source_rows] == list(range(first))
    assert [row for block in found for row in block.kept.column("number").to_pylist()] == list(range(first))
    assert [image for b in found for image in b.images] == [image for b in blocks for image in b.images]
    assert sum(block.filtered for block in found) == sum(filtered for _, filtered in given_blocks)
    for block, after in zip_longest(found, found[1:]):
        held = sum(map(len, block.images))
        assert len(block.images) <= rows
        assert held <= size or len(block.images) == 1
        if after is not None and not sizes:
            assert len(block.images) == rows or held + len(after.images[0]) > size
