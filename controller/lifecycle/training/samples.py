"""From the rows of a dataset to arrays that an epoch can draw from.

Rules:
    * Pictures go through the same resize and crop as in the predictor, once.
    * They lie in a file without a name on the disk of the run: any number fits, the page cache keeps
      what is used, and nothing is left behind however the process ends.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from controller.lifecycle.evaluation.labelled import describe_skipped, usable_rows
from controller.lifecycle.training.record import DataRecord
from runtime.datasets import Dataset
from runtime.errors import DatasetError
from runtime.manifest import Preprocess, Resize
from runtime.preprocess import resize_and_crop
from runtime.terminal import progress

__all__ = [
    "Samples",
    "channel_statistics",
    "choose_image_size",
    "describe_skipped",
    "labels_of",
    "prepare",
    "usable_rows",
]

PEEK_ROWS = 64
NATIVE_LIMIT = 96  # pixels; equal square pictures up to this size keep it
SMALLEST = 16  # pixels; below, the last stage of a network has no room left
DEFAULT_SIZE = 64  # pixels, for pictures of mixed sizes
STATISTICS_CHUNK = 1024  # pictures at a time

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Samples:
    """Pictures of one size, with their classes.

    Attributes:
        images: uint8, (n, size, size, 3), RGB.
        labels: int64, (n,).
        record: Where they came from, and what was left out.
    """

    images: Pixels
    labels: npt.NDArray[np.int64]
    record: DataRecord = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def gray(self) -> bool:
        """Whether the first pictures have no colour."""
        some = self.images[:PEEK_ROWS]
        return bool((some == some[..., :1]).all())


def choose_image_size(dataset: Dataset) -> int:
    """Return the height and width, in pixels, that suit *dataset*: its own if all are alike and small."""
    sizes = {image.shape[:2] for image, _ in islice(usable_rows(dataset), PEEK_ROWS)}
    if len(sizes) == 1:
        height, width = sizes.pop()
        if height == width <= NATIVE_LIMIT:
            return max(int(height), SMALLEST)
    return DEFAULT_SIZE


def _allocate(count: int, size: int, directory: Path) -> Pixels:
    with tempfile.TemporaryFile(dir=directory) as file:  # the mapping keeps the unnamed file alive
        os.posix_fallocate(file.fileno(), 0, count * size * size * 3)  # a full disk is an error now, not a signal later
        return np.memmap(file, dtype=np.uint8, mode="r+", shape=(count, size, size, 3))


def prepare(dataset: Dataset, size: int, directory: Path, what: str) -> Samples:
    """Read, decode, resize and crop all of *dataset*.

    Args:
        dataset: With labels.
        size: Height and width to bring the pictures to, pixels.
        directory: On the disk that holds the pictures meanwhile.
        what: The data is called so while it is read.

    Raises:
        DatasetError: It has no usable image, or a row has no label.
    """
    images, labels = _allocate(len(dataset), size, directory), np.empty(len(dataset), np.int64)
    shape = Preprocess(resize=Resize(size=size), crop=(size, size))
    skipped: Counter[str] = Counter()
    used = 0
    with progress(len(dataset), f"reading {what}", "images") as bar:
        for image, label in usable_rows(dataset, skipped):
            images[used] = resize_and_crop(image, shape)
            labels[used] = label
            used += 1
            bar.advance()
    if not used:
        raise DatasetError(f"dataset {dataset.uri} has no usable image: {describe_skipped(skipped)}")
    record = DataRecord(uri=dataset.uri, fingerprint=dataset.fingerprint, rows=used, skipped=dict(skipped))
    return Samples(images[:used], labels[:used], record)


def labels_of(dataset: Dataset, *parts: Samples) -> tuple[str, ...]:
    """Return the class names: the dataset's own, or ``class_0`` and so on up to the highest label in *parts*."""
    if dataset.label_names is not None:
        return dataset.label_names
    return tuple(f"class_{index}" for index in range(1 + max(int(part.labels.max()) for part in parts)))


def channel_statistics(samples: Samples) -> Preprocess:
    """Return the preprocessing that brings *samples* to mean 0 and standard deviation 1 per channel."""
    total, squares, pixels = np.zeros(3), np.zeros(3), 0
    for start in range(0, len(samples), STATISTICS_CHUNK):
        chunk = samples.images[start : start + STATISTICS_CHUNK].reshape(-1, 3) / 255
        total += chunk.sum(axis=0)
        squares += np.square(chunk).sum(axis=0)
        pixels += len(chunk)
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    size = int(samples.images.shape[1])
    return Preprocess(
        resize=Resize(size=size),
        crop=(size, size),
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 1 / 255), 4) for value in deviation),  # pictures of one colour have none
        scale=1 / 255,
        embedded=True,
    )
