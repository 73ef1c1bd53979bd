"""Parquet: which column holds the images, damage that is named, and writing that is whole or not at all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.datasets import Dataset, Row, open_dataset
from runtime.datasets import parquet as parquet_module
from runtime.datasets.parquet import find_image_column, write_parquet
from runtime.errors import DatasetError
from runtime.images import load

IMAGES = [b"one", b"two", None, b"four"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

READ_ALL = """
import resource, sys
from runtime.datasets import open_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(1 for _ in open_dataset(sys.argv[1]).rows())
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def cells(kind: Any) -> Any:
    if pa.types.is_struct(kind):
        return pa.array([image and {"bytes": image, "path": "x"} for image in IMAGES], kind)
    return pa.array(IMAGES, kind)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), STRUCT, pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])]
)
def test_every_layout_of_images_is_read(tmp_path: Path, kind: Any) -> None:
    path = write(tmp_path / "x.parquet", {"picture": cells(kind), "label": [3, 1, None, 2], "other": [1.0] * 4})
    rows = list(open_dataset(str(path)).rows())
    assert [row.image for row in rows] == IMAGES
    assert [row.label for row in rows] == [3, 1, None, 2]
    assert [(row.source_file, row.source_row) for row in rows] == [(str(path), number) for number in range(4)]


def test_the_columns_may_be_chosen(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.parquet", {"a": cells(pa.binary()), "b": cells(STRUCT), "label": [0] * 4, "class": [7] * 4}
    )
    dataset = open_dataset(str(path), image_column="b", label_column="class")
    assert [row.label for row in dataset.rows()] == [7] * 4
    with pytest.raises(DatasetError, match=r"2 columns that can hold images \(a, b\); name it with --image-column"):
        list(open_dataset(str(path)).rows())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_column": "nope"}, r"x\.parquet has no column 'nope'; its columns are: number \(int64\), text"),
        ({"image_column": "number"}, r"column 'number' is int64; expected binary or struct<bytes, path>"),
        ({"label_column": "nope"}, r"has no column 'nope'; its columns are: number, text, image"),
        ({"label_column": "text"}, r"label column 'text' is string; expected integers"),
    ],
)
def test_a_wrong_column_is_named_with_what_there_is(tmp_path: Path, options: dict[str, str], text: str) -> None:
    path = write(tmp_path / "x.parquet", {"number": [1] * 4, "text": ["a"] * 4, "image": cells(pa.binary())})
    with pytest.raises(DatasetError, match=text):
        list(open_dataset(str(path), **options).rows())


def test_a_file_without_images_says_what_it_has() -> None:
    with pytest.raises(DatasetError, match=r"f has no image column; name it .*; its columns are: a \(int64\)"):
        find_image_column(pa.schema([("a", pa.int64())]), None, "f")
    nested = pa.struct([("bytes", pa.struct([("bytes", pa.binary())]))])
    with pytest.raises(DatasetError, match="no image column"):
        find_image_column(pa.schema([("a", nested)]), None, "f")


def test_files_of_a_directory_are_one_dataset_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", {"image": [b"3"], "label": [3]})
    write(tmp_path / "a.parquet", {"image": [b"1", b"2"], "label": [1, 2]})
    write(tmp_path / "c" / "d.pq", {"image": [b"4"], "label": [4]})
    assert [row.image for row in open_dataset(str(tmp_path)).rows()] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "odd", [{"picture": [b"1"]}, {"image": ["text"], "label": [1]}, {"image": [b"1"], "label": ["a"]}]
)
def test_a_file_that_differs_from_the_others_is_named(tmp_path: Path, odd: dict[str, Any]) -> None:
    write(tmp_path / "a.parquet", {"image": [b"1"], "label": [1]})
    write(tmp_path / "b.parquet", odd)
    dataset = open_dataset(str(tmp_path))
    with pytest.raises(DatasetError, match=r"b\.parquet"):
        list(dataset.rows())
    assert [row.image for row in dataset.rows(0, 1)] == [b"1"]


@pytest.mark.parametrize(
    "names", [["train-00000-of-00001", "test-00000-of-00001"], ["train/0", "test/0"], ["train", "test"]]
)
def test_splits_are_found_by_file_and_folder_names(tmp_path: Path, names: list[str]) -> None:
    root = tmp_path / "train"  # the name of the root itself chooses nothing
    for number, name in enumerate(names):
        write(root / f"{name}.parquet", {"image": [str(number).encode()]})
    assert [row.image for row in open_dataset(f"{root}#train").rows()] == [b"0"]
    assert [row.image for row in open_dataset(f"{root}#test").rows()] == [b"1"]


def test_hugging_faces_own_file_is_read(test_data: Callable[[str], Path]) -> None:
    dataset = open_dataset(str(test_data("images/cifar10_2000_hf.parquet")))
    assert len(dataset) == 2000
    assert dataset.label_names[:3] == ("airplane", "automobile", "bird")
    assert {load(row.image).shape for row in dataset.rows(990, 1010)} == {(32, 32, 3)}


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"not parquet at all" * 10, b"PAR1\xff\xff\xff\x7fPAR1"]
)
def test_what_is_no_parquet_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match=r"x\.parquet is not a readable Parquet file: ") as caught:
        open_dataset(str(tmp_path / "x.parquet"))
    assert "\n" not in str(caught.value)


def test_no_rows_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(DatasetError, match=r"x\.parquet is empty: it has no rows"):
        open_dataset(str(path))


def test_a_damaged_page_is_found_by_its_checksum(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(digits, path, row_group_rows=50)
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT", 1000)  # inside an image
    data[at + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"x\.parquet, row group \d+: .*(page|CRC)"):
        list(open_dataset(str(path)).rows())


def test_random_damage_is_an_error_of_one_line_or_harmless(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(digits, path, row_group_rows=100)
    good = path.read_bytes()
    expected = [row.image for row in open_dataset(str(path)).rows()]
    chooser = random.Random(0)
    refused = 0
    for number in range(150):
        data = bytearray(good)
        at = chooser.randrange(len(data) - 2500 if number % 2 else 0, len(data))
        data[at] = (data[at] + chooser.randrange(1, 256)) % 256
        path.write_bytes(data)
        try:
            found = [row.image for row in open_dataset(str(path)).rows()]
        except DatasetError as error:
            refused += "\n" not in str(error)
        else:
            refused += found == expected
    assert refused == 150


def test_what_is_written_is_read_by_others(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(digits, path, row_group_rows=100)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(4)] == [100, 100, 100, 64]
    assert [field.name for field in file.schema_arrow.field("image").type] == ["bytes", "path"]
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": list("0123456789")}
    assert file.read_row_group(0).column("image")[3].as_py()["path"] == "digits#test#3"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, digits: Dataset) -> None:
    class Failing:
        uri, label_names, fingerprint = "x", None, ""

        def __len__(self) -> int:
            return 100

        def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
            yield from digits.rows(start, stop)
            raise DatasetError("the source broke")

    path = tmp_path / "x.parquet"
    path.write_text("old")
    with pytest.raises(DatasetError, match="the source broke"):
        write_parquet(Failing(), path, row_group_rows=50)
    assert path.read_text() == "old"
    assert [other.name for other in tmp_path.iterdir()] == ["x.parquet"]


def test_a_dataset_may_be_written_over_itself(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(digits, path)
    before = [row.image for row in open_dataset(str(path)).rows()]
    write_parquet(open_dataset(str(path)), path, row_group_rows=10)
    assert [row.image for row in open_dataset(str(path)).rows()] == before


def test_big_images_end_a_row_group_early(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "ROW_GROUP_BYTES", 5_000)
    write_parquet(digits, tmp_path / "x.parquet", row_group_rows=1000)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups > 5
    assert file.metadata.num_rows == len(digits)


def test_memory_is_bounded_by_pages_not_by_the_row_group(tmp_path: Path) -> None:
    class Noise:
        uri, label_names, fingerprint = "noise", None, "noise"

        def __len__(self) -> int:
            return 400

        def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
            for number in range(400)[start:stop]:
                data = np.random.default_rng(number).bytes(300_000)
                yield Row(image=data, label=None, source_file="noise", source_row=number)

    path = tmp_path / "x.parquet"
    write_parquet(Noise(), path, row_group_rows=400)
    megabytes = path.stat().st_size / 2**20
    assert megabytes > 110
    assert pq.ParquetFile(path).num_row_groups == 1
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    rows, grown = map(int, done.stdout.split())
    assert rows == 400
    assert grown < megabytes * 1.4  # measured: 0.75, and 1.75 when the row group is read at once
