from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from color_model import picture, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cluster.errors import FilterError, InputChangedError, InputError, SchemaError
from cluster.input.blocks import Block, BlockLimits
from cluster.input.readers import READERS, shard_blocks
from cluster.input.sampling import Sample
from cluster.input.sources import Columns, Source, open_source
from cluster.plan import ShardLimits, plan_shards
from runtime.errors import DatasetError


def read(source: Source, *, shard_rows: int = 30, block_rows: int = 8) -> list[Block]:
    readers = {source.reader: READERS[source.reader](source.columns)}
    shards = plan_shards(source.files, ShardLimits(rows=shard_rows), reader=source.reader)
    limits = BlockLimits(rows=block_rows, size=1 << 20)
    return [block for shard in shards for block in shard_blocks(readers, shard, limits)]


def column(blocks: list[Block], name: str) -> list:
    return [value for block in blocks for value in block.kept.column(name).to_pylist()]


@settings(max_examples=25)
@given(
    rows=st.integers(1, 120),
    row_group=st.integers(1, 70),
    shard_rows=st.integers(1, 60),
    block_rows=st.integers(1, 20),
    bound=st.none() | st.integers(-1, 121),
)
def test_each_row_is_read_once_or_counted_as_filtered(tmp_path_factory, rows, row_group, shard_rows, block_rows, bound):
    path = write_rows(tmp_path_factory.mktemp("p") / "in.parquet", rows, row_group=row_group)
    condition = None if bound is None else f"number >= {bound}"
    source = open_source(str(path), Columns(image=None, keep=("number",), filter=condition))
    blocks = read(source, shard_rows=shard_rows, block_rows=block_rows)
    wanted = list(range(max(0, -1 if bound is None else bound), rows))
    assert column(blocks, "number") == wanted
    assert [row for block in blocks for row in block.source_rows] == wanted
    assert [image for block in blocks for image in block.images] == [picture(row % 3) for row in wanted]
    assert sum(block.filtered for block in blocks) == rows - len(wanted)
    assert max(len(block.images) for block in blocks) <= block_rows


def test_a_directory_is_read_in_the_order_of_its_files(tmp_path):
    for index in (2, 0, 1):
        write_rows(tmp_path / "in" / f"part-{index}.parquet", 10, first=10 * index)
    (tmp_path / "in" / "_ignored.parquet").write_bytes(b"")
    source = open_source(str(tmp_path / "in"), Columns(image=None, keep=("number",)))
    blocks = read(source)
    assert column(blocks, "number") == list(range(30))
    assert blocks[-1].source_files[-1] == str(tmp_path / "in" / "part-2.parquet")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_binary_columns(tmp_path, kind):
    pq.write_table(pa.table({"jpg": pa.array([b"a", None], kind)}), tmp_path / "in.parquet")
    (block,) = read(open_source(str(tmp_path / "in.parquet"), Columns(image=None)))
    assert block.images == [b"a", None]


def test_hugging_face_cells_hold_bytes_or_point_to_a_file(tmp_path):
    cells = [{"bytes": b"a", "path": "x.png"}, {"bytes": None, "path": "x.png"}, None, {"bytes": None, "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"img": pa.array(cells, kind)}), tmp_path / "in.parquet")
    (block,) = read(open_source(str(tmp_path / "in.parquet"), Columns(image=None)))
    assert block.images == [b"a", tmp_path / "x.png", None, None]


def test_a_column_of_paths_counts_from_the_file(tmp_path):
    pq.write_table(pa.table({"file": ["a/b.png", str(tmp_path / "c.png"), None]}), tmp_path / "in.parquet")
    (block,) = read(open_source(str(tmp_path / "in.parquet"), Columns(image="file")))
    assert block.images == [tmp_path / "a" / "b.png", tmp_path / "c.png", None]


def test_all_types_pass_through(tmp_path):
    table = pa.table(
        {
            "image": pa.array([b"x"] * 6, pa.binary()),
            "kind": pa.array(["u", "v", None] * 2).dictionary_encode(),
            "boxes": [[{"x": 1.5}], [], None] * 2,
            "when": pa.array([1, 2, None] * 2, pa.timestamp("us", "UTC")),
            "price": pa.array([1, 2, 3] * 2, pa.decimal128(9, 2)),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=4)
    keep = ("kind", "boxes", "when", "price")
    source = open_source(str(tmp_path / "in.parquet"), Columns(image="image", keep=keep, filter="kind != 'v'"))
    blocks = read(source, block_rows=2)
    kept = pa.concat_tables([block.kept for block in blocks])
    assert kept.schema.types == table.select(keep).schema.types
    assert kept.to_pylist() == table.select(keep).take([0, 3]).to_pylist()


def test_images_of_a_shard_without_matching_rows_are_not_read(tmp_path):
    path = write_rows(tmp_path / "in.parquet", 100, row_group=50)
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(0)
        start, length = chunk.data_page_offset, chunk.total_compressed_size
    data = bytearray(path.read_bytes())
    data[start : start + length // 2] = b"\xff" * (length // 2)  # the images of the first row group are lost
    path.write_bytes(data)
    source = open_source(str(path), Columns(image="image", keep=("number",), filter="number >= 50"))
    assert column(read(source, shard_rows=50), "number") == list(range(50, 100))
    with pytest.raises(InputError, match="rows 0-49 cannot be read"):
        read(open_source(str(path), Columns(image="image")), shard_rows=50)


def test_memory_is_bounded_by_the_block_and_not_by_the_row_group(tmp_path):
    table = pa.table({"image": pa.array([os.urandom(100_000) for _ in range(400)], pa.binary())})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=400, write_batch_size=4, use_dictionary=False)
    del table
    source = open_source(str(tmp_path / "in.parquet"), Columns(image=None))
    (shard,) = plan_shards(source.files, ShardLimits(rows=400), reader=source.reader)
    before = pa.total_allocated_bytes()
    blocks = READERS[source.reader](source.columns).blocks(shard.ranges[0], BlockLimits(rows=4, size=1 << 20))
    peak = max(pa.total_allocated_bytes() - before for _ in blocks)
    assert peak < 10_000_000  # of a row group of 40 MB


def test_small_files_are_read_in_full_blocks_and_each_row_says_where_it_is_from(tmp_path):
    paths = [write_rows(tmp_path / "in" / f"{index}.parquet", 7, first=7 * index) for index in range(9)]
    source = open_source(str(tmp_path / "in"), Columns(image=None, keep=("number",), filter="number != 10"))
    blocks = read(source, shard_rows=100, block_rows=16)
    assert [len(block.images) for block in blocks] == [16, 16, 16, 14]
    assert column(blocks, "number") == [number for number in range(63) if number != 10]
    found = [one for block in blocks for one in zip(block.source_files, block.source_rows, strict=True)]
    assert found == [(str(path), row) for path in paths for row in range(7) if (path, row) != (paths[1], 3)]
    assert sum(block.filtered for block in blocks) == 1


def test_files_whose_kept_columns_differ_in_nullability_share_a_block(tmp_path):
    (tmp_path / "in").mkdir()
    for name, nullable in (("a", True), ("b", False)):
        schema = pa.schema([pa.field("image", pa.binary()), pa.field("number", pa.int32(), nullable=nullable)])
        pq.write_table(
            pa.table([[b"x"], pa.array([1], pa.int32())], schema=schema), tmp_path / "in" / f"{name}.parquet"
        )
    (block,) = read(open_source(str(tmp_path / "in"), Columns(image=None, keep=("number",))))
    assert block.kept.column("number").to_pylist() == [1, 1]


def test_one_changed_file_of_a_shard_of_several_is_named(tmp_path):
    paths = [write_rows(tmp_path / "in" / f"{index}.parquet", 7) for index in range(3)]
    source = open_source(str(tmp_path / "in"), Columns(image=None))
    os.utime(paths[1], (1, 1))
    with pytest.raises(InputChangedError, match=r"1\.parquet"):
        read(source)


def test_a_sample_is_the_same_whatever_the_blocks_and_goes_before_the_filter(tmp_path):
    path = write_rows(tmp_path / "in.parquet", 200, row_group=60)
    sample = Sample(fraction=0.3, seed=5)
    wanted = sample.rows(str(path), 0, 200).tolist()
    everything = open_source(str(path), Columns(image=None, sample=sample))
    for shard_rows, block_rows in ((200, 16), (33, 7)):
        blocks = read(everything, shard_rows=shard_rows, block_rows=block_rows)
        assert [row for block in blocks for row in block.source_rows] == wanted
        assert sum(block.filtered for block in blocks) == 200 - len(wanted)
    some = open_source(str(path), Columns(image=None, sample=sample, filter="number >= 100"))
    assert [row for block in read(some) for row in block.source_rows] == [row for row in wanted if row >= 100]


def test_a_dataset_without_columns_is_sampled_by_row_too():
    sample = Sample(fraction=0.1)
    source = open_source("digits#test", Columns(image=None, sample=sample))
    rows = sum(len(block.images) for block in read(source, shard_rows=100))
    assert rows == len(sample.rows(source.files[0].path, 0, source.rows)) > 0


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        (Columns(image=None, keep=("nope",)), SchemaError, "--keep.*'nope'.*image, number, name"),
        (Columns(image="nope"), SchemaError, "no column 'nope'.*image.*number"),
        (Columns(image="number"), SchemaError, "'number' is int32"),
        (Columns(image=None, filter="nope > 1"), SchemaError, "--filter.*'nope'.*image, number, name"),
        (Columns(image=None, filter="number > 'x'"), FilterError, "number"),
        (Columns(image=None, filter="image == 'x' and number == 1"), FilterError, "image"),
    ],
)
def test_columns_that_do_not_fit_are_refused_with_those_that_exist(tmp_path, columns, error, text):
    path = write_rows(tmp_path / "in.parquet", 3)
    with pytest.raises(error, match=text):
        open_source(str(path), columns)


def test_files_that_disagree_are_named(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", 3)
    table = pa.table({"image": pa.array([b""], pa.binary()), "number": ["one"]})
    pq.write_table(table, tmp_path / "in" / "b.parquet")
    open_source(str(tmp_path / "in"), Columns(image=None))
    with pytest.raises(SchemaError, match=r"b\.parquet: column 'number' is string.*a\.parquet it is int32"):
        open_source(str(tmp_path / "in"), Columns(image=None, keep=("number",)))
    with pytest.raises(SchemaError, match=r"b\.parquet: column 'name' is missing"):
        open_source(str(tmp_path / "in"), Columns(image=None, keep=("name",)))


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "not a readable Parquet"), (b"PAR1 nonsense PAR1", "not a readable Parquet"), (None, "does not exist")],
)
def test_an_input_that_is_none_is_refused(tmp_path, content, text):
    if content is not None:
        (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match=text):
        open_source(str(tmp_path / "in.parquet"), Columns(image=None))


def test_an_empty_file_is_refused(tmp_path):
    write_rows(tmp_path / "in.parquet", 0)
    with pytest.raises(DatasetError, match="empty"):
        open_source(str(tmp_path / "in.parquet"), Columns(image=None))


@pytest.mark.parametrize("harm", [lambda path: os.utime(path, (1, 1)), Path.unlink])
def test_a_file_that_changed_after_planning_is_an_error(tmp_path, harm):
    path = write_rows(tmp_path / "in.parquet", 3)
    source = open_source(str(path), Columns(image=None))
    harm(path)
    with pytest.raises(InputChangedError, match=r"in\.parquet"):
        read(source)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    path = write_rows(tmp_path / "in.parquet", 50)
    source = open_source(str(path), Columns(image=None))
    (shard,) = plan_shards(source.files, ShardLimits(rows=50), reader=source.reader)
    blocks = READERS[source.reader](source.columns).blocks(shard.ranges[0], BlockLimits(rows=10, size=1 << 20))
    next(blocks)
    os.utime(path, (1, 1))
    with pytest.raises(InputChangedError):
        list(blocks)


def test_an_image_folder_has_labels_to_keep_and_filter(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / "in" / name / f"{number}{index}.png")
    source = open_source(str(tmp_path / "in"), Columns(image=None, keep=("label",), filter="label == 1"))
    blocks = read(source, shard_rows=4, block_rows=2)
    assert column(blocks, "label") == [1, 1, 1]
    assert sum(block.filtered for block in blocks) == 3
    files = [Path(name) for block in blocks for name in block.source_files]
    assert [file.name for file in files] == ["10.png", "11.png", "12.png"]
    assert [image for block in blocks for image in block.images] == [file.read_bytes() for file in files]
    with pytest.raises(SchemaError, match="no column 'name'; its columns are: label"):
        open_source(str(tmp_path / "in"), Columns(image=None, keep=("name",)))
    with pytest.raises(SchemaError, match="--image-column"):
        open_source(str(tmp_path / "in"), Columns(image="label"))


def test_digits_are_pixels():
    source = open_source("digits#test", Columns(image=None, keep=("label",)))
    blocks = read(source, shard_rows=100, block_rows=64)
    assert len(column(blocks, "label")) == source.rows
    assert {image.shape for block in blocks for image in block.images} == {(8, 8, 3)}
