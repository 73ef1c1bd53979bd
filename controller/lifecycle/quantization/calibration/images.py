"""Real images for calibration: a bounded number, from all over the dataset, read as they are needed.

Rules:
    * Rows are taken in short runs at even distances, since a dataset may be sorted by class and a
      row group should be read once for several rows.
    * An image that cannot be used is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.datasets import Dataset
from runtime.errors import DatasetError, ImageError
from runtime.images import load
from runtime.preprocess import Preprocessor

__all__ = ["CALIBRATION_IMAGES", "calibration_batches", "spread_images"]

CALIBRATION_IMAGES = 256
RUN = 8  # rows in a row

Pixels = npt.NDArray[np.uint8]


def _starts(length: int, runs: int) -> list[int]:
    return [round(number * length / runs) for number in range(runs)]


def spread_images(dataset: Dataset, limit: int = CALIBRATION_IMAGES) -> Iterator[Pixels]:
    """Yield at most *limit* pictures, uint8 (H, W, 3), from all over *dataset*."""
    length = len(dataset)
    ranges = [(0, length)] if length <= limit else [(s, s + RUN) for s in _starts(length, max(1, limit // RUN))]
    for start, stop in ranges:
        for row in dataset.rows(start, min(stop, length)):
            if row.image is None:
                continue
            try:
                yield load(row.image)
            except ImageError:
                continue


def calibration_batches(
    dataset: Dataset,
    preprocessor: Preprocessor,
    batch_size: int,
    limit: int = CALIBRATION_IMAGES,
    *,
    whole: bool = True,
) -> Iterator[npt.NDArray[Any]]:
    """Yield batches of model inputs made from *dataset*.

    Args:
        dataset: Has the pictures.
        preprocessor: Of the model.
        batch_size: Pictures in a batch.
        limit: Pictures in all.
        whole: Leave the last pictures out if they make no whole batch.

    Raises:
        DatasetError: There are not enough usable images for one batch.
    """
    batch: list[npt.NDArray[Any]] = []
    yielded = False
    for image in spread_images(dataset, limit):
        batch.append(preprocessor(image))
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch, yielded = [], True
    if batch and not whole:
        yield np.stack(batch)
        yielded = True
    if not yielded:
        least = batch_size if whole else 1
        raise DatasetError(f"dataset {dataset.uri} has {len(batch)} usable images; calibration needs {least} at least")
