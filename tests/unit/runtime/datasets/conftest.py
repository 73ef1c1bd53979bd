"""Every format as a real file made from real digits, so that one listing can be compared with another."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.datasets import Dataset, open_dataset, split
from runtime.datasets.parquet import write_parquet


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return open_dataset("digits#test")


@pytest.fixture(scope="session")
def to_idx() -> Callable[[np.ndarray], bytes]:
    return idx


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A directory like MNIST's: 90 images to train with (gzip), 30 to test with (plain)."""
    root = tmp_path_factory.mktemp("mnist")
    rows = list(digits.rows(0, 120))
    for prefix, part in (("train", rows[:90]), ("t10k", rows[90:])):
        pixels = idx(np.stack([row.image[:, :, 0] for row in part]))
        labels = idx(np.array([row.label for row in part]))
        if prefix == "train":
            (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
            (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
        else:
            (root / "t10k-images-idx3-ubyte").write_bytes(pixels)
            (root / "t10k-labels-idx1-ubyte").write_bytes(labels)
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """Forty digits as PNG in sub-folders by their name."""
    root = tmp_path_factory.mktemp("folder")
    for number, row in enumerate(digits.rows(0, 40)):
        path = root / f"digit-{row.label}" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(row.image).save(path)
    return root


CIFAR_NAMES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]


def cifar_files(rows: int = 4) -> dict[str, Any]:
    """What the archive holds by file name: five batches and a test batch of random pixels, and the names."""
    generator = np.random.default_rng(0)
    files: dict[str, Any] = {"batches.meta": {b"label_names": CIFAR_NAMES, b"num_vis": 3072}}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        files[name] = {
            b"data": generator.integers(0, 256, (rows, 3072), dtype=np.uint8),
            b"labels": generator.integers(0, 10, rows).tolist(),
            b"batch_label": name.encode(),
        }
    return files


def pack(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def cifar_content() -> dict[str, Any]:
    return cifar_files()


@pytest.fixture(scope="session")
def pack_cifar() -> Callable[[Path, dict[str, Any]], Path]:
    return pack


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory, cifar_content: dict[str, Any]) -> Path:
    return pack(tmp_path_factory.mktemp("cifar") / "cifar-10-python.tar.gz", cifar_content)


@pytest.fixture(scope="session")
def parquet(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A directory of the digits in two Parquet files, with row groups of 25."""
    root = tmp_path_factory.mktemp("parquet")
    for number, bounds in enumerate([(0, 60), (60, 130)]):
        part = open_dataset("digits#test")
        rows = list(part.rows(*bounds))
        write_parquet(_Part(part, rows), root / f"test-0000{number}-of-00002.parquet", row_group_rows=25)
    return root


class _Part:
    """Some rows of a dataset, as a dataset."""

    def __init__(self, whole: Dataset, rows: list[Any]) -> None:
        self.uri, self.label_names, self.fingerprint, self._rows = whole.uri, whole.label_names, "part", rows

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int = 0, stop: int | None = None) -> Any:
        return iter(self._rows[start:stop])


class Datasets(dict[str, Dataset]):
    """By name; what hypothesis prints of it is short."""

    def __repr__(self) -> str:
        return "datasets"


@pytest.fixture(scope="session")
def datasets(mnist: Path, folder: Path, cifar: Path, parquet: Path) -> Datasets:
    """One dataset of each format, and a subset."""
    opened: dict[str, Dataset] = {
        "digits": open_dataset("digits#test"),
        "idx": open_dataset(str(mnist)),
        "folder": open_dataset(str(folder)),
        "cifar": open_dataset(str(cifar)),
        "parquet": open_dataset(str(parquet)),
    }
    return Datasets(opened | {"subset": split(opened["parquet"], 0.4)[0]})
