"""CIFAR-10's Python archive: read without running a byte of it."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.datasets import cifar as cifar_module
from runtime.datasets import open_dataset
from runtime.errors import DatasetError
from runtime.images import load

Pack = Callable[[Path, dict[str, Any]], Path]


def test_planes_become_pixels(cifar: Path, cifar_content: dict[str, Any]) -> None:
    dataset = open_dataset(str(cifar))
    assert len(dataset) == 24
    assert dataset.label_names[-1] == "truck"
    batch = cifar_content["data_batch_2"]
    row = next(dataset.rows(5, 6))  # the second of the second batch
    assert row.label == batch[b"labels"][1]
    assert np.array_equal(row.image[:, :, 0].ravel(), batch[b"data"][1][:1024])
    assert np.array_equal(row.image[:, :, 2].ravel(), batch[b"data"][1][2048:])


def test_the_splits_are_the_archives(cifar: Path, cifar_content: dict[str, Any]) -> None:
    train, test = open_dataset(f"{cifar}#train"), open_dataset(f"{cifar}#test")
    assert (len(train), len(test)) == (20, 4)
    assert [row.label for row in test.rows()] == cifar_content["test_batch"][b"labels"]


def test_the_extracted_archive_is_the_same(cifar: Path, tmp_path: Path) -> None:
    with tarfile.open(cifar) as archive:
        archive.extractall(tmp_path, filter="data")
    for place in (tmp_path, tmp_path / "cifar-10-batches-py"):
        dataset = open_dataset(str(place))
        assert [row.label for row in dataset.rows()] == [row.label for row in open_dataset(str(cifar)).rows()]
    before = open_dataset(str(tmp_path)).fingerprint
    os.utime(tmp_path / "cifar-10-batches-py" / "test_batch", (1, 1))
    assert open_dataset(str(tmp_path)).fingerprint != before


def test_real_pixels_survive_the_archive(
    test_data: Callable[[str], Path], tmp_path: Path, pack_cifar: Pack, cifar_content: dict[str, Any]
) -> None:
    rows = list(open_dataset(str(test_data("images/cifar10_2000_hf.parquet"))).rows(0, 8))
    pixels = [load(row.image) for row in rows]
    batch = {
        b"data": np.stack([image.transpose(2, 0, 1).ravel() for image in pixels]),
        b"labels": [row.label for row in rows],
    }
    path = pack_cifar(tmp_path / "c.tar.gz", {"test_batch": batch, "batches.meta": cifar_content["batches.meta"]})
    for row, image, original in zip(open_dataset(f"{path}#test").rows(), pixels, rows, strict=True):
        assert np.array_equal(row.image, image)
        assert row.label == original.label


class Attack:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class Eval:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_crafted_pickle_runs_no_code(
    tmp_path: Path, pack_cifar: Pack, cifar_content: dict[str, Any], protocol: int
) -> None:
    trace = tmp_path / "attacked"
    for attack in (Attack(trace), {b"data": Attack(trace)}, {b"data": Eval()}):
        content = cifar_content | {"data_batch_3": pickle.dumps(attack, protocol=protocol)}
        path = pack_cifar(tmp_path / "c.tar.gz", content)
        with pytest.raises(DatasetError, match=r"data_batch_3 is not a CIFAR batch: .* does not belong"):
            open_dataset(str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", [("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("numpy.core.multiarray", "fromfile")]
)
def test_only_the_types_of_a_batch_are_found(name: tuple[str, str]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        cifar_module._Unpickler(io.BytesIO()).find_class(*name)


@pytest.mark.parametrize(
    "batch",
    [
        b"no pickle",
        b"",
        [],
        {},
        {b"data": np.zeros((2, 10), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a", "b"]},
        {b"data": [[10**9] * 3072], b"labels": [1]},
        {b"data": None, b"labels": None},
    ],
)
def test_a_batch_that_is_none_is_one_line(
    tmp_path: Path, pack_cifar: Pack, cifar_content: dict[str, Any], batch: Any
) -> None:
    path = pack_cifar(tmp_path / "c.tar.gz", cifar_content | {"test_batch": batch})
    with pytest.raises(DatasetError) as caught:
        open_dataset(f"{path}#test")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("meta", [{b"label_names": 5}, {b"label_names": [1.5]}, {b"label_names": [b"\xff"]}])
def test_names_that_are_none_are_refused(
    tmp_path: Path, pack_cifar: Pack, cifar_content: dict[str, Any], meta: dict[bytes, Any]
) -> None:
    path = pack_cifar(tmp_path / "c.tar.gz", cifar_content | {"batches.meta": meta})
    with pytest.raises(DatasetError, match="a batch does not hold"):
        open_dataset(str(path))


def test_an_absent_batch_is_named(tmp_path: Path, pack_cifar: Pack, cifar_content: dict[str, Any]) -> None:
    content = {name: batch for name, batch in cifar_content.items() if name != "data_batch_4"}
    path = pack_cifar(tmp_path / "c.tar.gz", content)
    assert len(open_dataset(f"{path}#test")) == 4
    with pytest.raises(DatasetError, match=r"has no data_batch_4: not CIFAR-10's Python archive\?"):
        open_dataset(f"{path}#train")


@pytest.mark.parametrize("keep", [0, 20, 2000])
def test_a_cut_archive_is_one_line(tmp_path: Path, cifar: Path, keep: int) -> None:
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(cifar.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"cut\.tar\.gz is not a readable archive"):
        open_dataset(str(path))


def test_damage_inside_an_archive_is_one_line(tmp_path: Path, cifar: Path) -> None:
    data = bytearray(cifar.read_bytes())
    for at in range(5000, 6000):
        data[at] = 0xFF
    (tmp_path / "bad.tar.gz").write_bytes(data)
    with pytest.raises(DatasetError, match=r"bad\.tar\.gz"):
        open_dataset(str(tmp_path / "bad.tar.gz"))


def test_a_batch_that_never_ends_is_refused(
    tmp_path: Path, pack_cifar: Pack, cifar_content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar_module, "MAX_BATCH", 50_000)
    path = pack_cifar(tmp_path / "c.tar.gz", cifar_content | {"data_batch_1": bytes(60_000), "unwanted": bytes(90_000)})
    with pytest.raises(DatasetError, match="data_batch_1 is not a CIFAR batch: it has more than 50000 bytes"):
        open_dataset(str(path))
    assert len(open_dataset(f"{path}#test")) == 4
