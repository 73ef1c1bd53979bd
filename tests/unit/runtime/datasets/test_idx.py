"""IDX: the MNIST family, plain and compressed."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.datasets import Dataset, open_dataset
from runtime.datasets.idx import read_idx
from runtime.errors import DatasetError

ToIdx = Callable[[np.ndarray], bytes]


def test_mnists_directory_has_both_splits(mnist: Path, digits: Dataset) -> None:
    train, test, whole = (open_dataset(f"{mnist}{part}") for part in ("#train", "#test", ""))
    assert (len(train), len(test), len(whole)) == (90, 30, 120)
    for dataset, start in ((train, 0), (test, 90)):
        for row, original in zip(dataset.rows(), digits.rows(start, start + len(dataset)), strict=True):
            assert row.label == original.label
            assert np.array_equal(row.image, original.image)


def test_one_file_of_images_is_a_dataset_with_the_labels_beside_it(mnist: Path) -> None:
    dataset = open_dataset(str(mnist / "t10k-images-idx3-ubyte"))
    assert len(dataset) == 30
    assert next(dataset.rows()).label is not None
    assert len(open_dataset(f"{mnist / 't10k-images-idx3-ubyte'}#test")) == 30
    with pytest.raises(DatasetError, match="no IDX file of images for the split 'train'"):
        open_dataset(f"{mnist / 't10k-images-idx3-ubyte'}#train")


def test_labels_are_found_whether_compressed_or_not(tmp_path: Path, to_idx: ToIdx) -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(to_idx(images)))
    assert [row.label for row in open_dataset(str(tmp_path)).rows()] == [None, None]
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(to_idx(np.array([5, 6])))
    assert [row.label for row in open_dataset(str(tmp_path)).rows()] == [5, 6]


def test_a_file_that_lies_there_twice_counts_once(tmp_path: Path, to_idx: ToIdx) -> None:
    data = to_idx(np.zeros((2, 4, 4), np.uint8))
    (tmp_path / "a-images-idx3-ubyte").write_bytes(data)
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    assert len(open_dataset(str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.zeros(3), r"labels-idx1-ubyte has shape \(3,\); .*images-idx3-ubyte has 2 images"),
        (np.zeros((2, 2)), r"has shape \(2, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, to_idx: ToIdx, labels: np.ndarray, text: str) -> None:
    (tmp_path / "a-images-idx3-ubyte").write_bytes(to_idx(np.zeros((2, 4, 4))))
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(to_idx(labels))
    with pytest.raises(DatasetError, match=text):
        open_dataset(str(tmp_path))


def test_images_of_different_sizes_are_refused(tmp_path: Path, to_idx: ToIdx) -> None:
    for name, side in (("a", 4), ("b", 5)):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(to_idx(np.zeros((1, side, side))))
    with pytest.raises(DatasetError, match=r"images of different sizes: \[\(4, 4\), \(5, 5\)\]"):
        open_dataset(str(tmp_path))


def test_some_labels_but_not_all_are_refused(tmp_path: Path, to_idx: ToIdx) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(to_idx(np.zeros((1, 4, 4))))
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(to_idx(np.zeros(1)))
    with pytest.raises(DatasetError, match="2 files of images, 1 of labels"):
        open_dataset(str(tmp_path))


HEADER = struct.pack(">HBBIII", 0, 8, 3, 2, 4, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not an IDX file of bytes: it begins with b''"),
        (b"nonsense", "is not an IDX file of bytes: it begins with b'nons'"),
        (struct.pack(">HBBI", 0, 0x0D, 1, 2) + bytes(8), "is not an IDX file of bytes"),  # floats
        (HEADER[:10], "is not a readable IDX file"),
        (HEADER + bytes(31), r"the header says \[2, 4, 4\], that is 32 bytes; 31 follow"),
        (HEADER + bytes(33), r"that is 32 bytes; more follow"),
        (gzip.compress(HEADER + bytes(32), mtime=0)[:-20], "is not a readable IDX file"),
        (gzip.compress(HEADER + bytes(32), mtime=0)[:-8] + bytes(8), "is not a readable IDX file: CRC check failed"),
        (gzip.compress(HEADER + bytes(32), mtime=0)[:10] + b"\xff" * 20, "is not a readable IDX file: .*invalid"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=text):
        read_idx(path)
    with pytest.raises(DatasetError, match="x-images-idx3-ubyte"):
        open_dataset(str(tmp_path))


def test_a_header_that_lies_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x-images-idx3-ubyte"
    huge = struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    start = time.perf_counter()
    for content in (huge + bytes(32), gzip.compress(huge + bytes(50_000_000))):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="the header says"):
            read_idx(path)
    assert time.perf_counter() - start < 3
