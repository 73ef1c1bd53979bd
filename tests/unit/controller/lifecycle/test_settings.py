"""Held-out data, calibration images: the pipeline's small decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.lifecycle.evaluation.labelled import usable_rows
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.quantization.calibration.images import calibration_batches, spread_images
from runtime.datasets import ArrayDataset, open_dataset
from runtime.errors import DatasetError
from runtime.manifest import Preprocess, Tensor
from runtime.preprocess import Preprocessor


def numbered(count: int, labels: np.ndarray | None = None, names: tuple[str, ...] | None = None) -> ArrayDataset:
    """A dataset whose pictures say their number in their first pixel."""
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return ArrayDataset(uri="n", images=images, labels=labels, label_names=names, source_file="n", fingerprint="f")


def test_calibration_images_come_from_all_over() -> None:
    numbers = [int(i[0, 0, 0]) + 256 * int(i[0, 0, 1]) for i in spread_images(numbered(1000), limit=64)]
    assert len(set(numbers)) == 64
    quarters = np.bincount(np.asarray(numbers) // 250)
    assert quarters.tolist() == [16, 16, 16, 16]
    assert len(list(spread_images(numbered(10), limit=64))) == 10


def test_calibration_needs_a_whole_batch() -> None:
    preprocess = Preprocess(embedded=True)
    preprocessor = Preprocessor(preprocess, Tensor(name="x", dtype="uint8", shape=("N", 8, 8, 3)))
    shapes = [batch.shape for batch in calibration_batches(numbered(20), preprocessor, 8)]
    assert shapes == [(8, 8, 8, 3)] * 2
    with pytest.raises(DatasetError, match="has 5 usable images; calibration needs 8 at least"):
        list(calibration_batches(numbered(5), preprocessor, 8))


def test_held_out_rows_are_never_learned_from(digit_folder: Path) -> None:
    def contents(*uris: str | None) -> list[set[bytes]]:
        parts = open_with_held_out(str(uris[0]), uris[1] if len(uris) > 1 else None)
        return [{np.asarray(image).tobytes() for image, _ in usable_rows(part)} for part in parts]

    for uri, share in (("digits", 364 / 1797), ("digits#train", 364 / 1797), (str(digit_folder), 0.1)):
        learned, judged = contents(uri)
        assert not learned & judged
        assert len(judged) / (len(learned) + len(judged)) == pytest.approx(share, abs=0.02)
    learned, judged = contents(str(digit_folder), str(digit_folder))
    assert learned == judged
    assert contents("digits")[1] == contents("digits#train")[1]


def test_rows_without_a_proper_label_are_an_error() -> None:
    with pytest.raises(DatasetError, match="has no label in row 0"):
        list(usable_rows(numbered(3)))
    with pytest.raises(DatasetError, match="label 2 in row 2 of n; expected 0 to 1"):
        list(usable_rows(numbered(3, np.arange(3), ("a", "b"))))
    with pytest.raises(DatasetError, match="label -1"):
        list(usable_rows(numbered(1, np.array([-1]))))
    assert open_dataset("digits").label_names == tuple("0123456789")
