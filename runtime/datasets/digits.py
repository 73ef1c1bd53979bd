"""scikit-learn's digits: 1,797 real scans of 8x8 pixels, the dataset that is always at hand.

Rules:
    * Pixels are scaled from 0..16 to 0..255.
    * ``test`` is every fifth image of each class, ``train`` the rest: the same everywhere, stratified.
"""

from __future__ import annotations

import hashlib

import numpy as np

from runtime.datasets.base import ArrayDataset, to_rgb
from runtime.errors import DatasetError

__all__ = ["open_digits"]

SPLITS = (None, "train", "test")
TEST_EVERY = 5
BRIGHTEST = 16


def open_digits(uri: str, split: str | None) -> ArrayDataset:
    """Open the digits: all of them, or the ``train`` or ``test`` *split*.

    Raises:
        DatasetError: There is no such split.
    """
    from sklearn.datasets import load_digits

    if split not in SPLITS:
        raise DatasetError(f"{uri}: digits has the splits train and test, not {split!r}")
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    images = np.rint(bunch.images * (255 / BRIGHTEST)).astype(np.uint8)
    rank = np.empty(len(labels), dtype=np.int64)  # of an image within its class
    for label in range(10):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    chosen = {None: rank >= 0, "test": rank % TEST_EVERY == 0, "train": rank % TEST_EVERY != 0}[split]
    return ArrayDataset(
        uri=uri,
        images=to_rgb(images[chosen]),
        labels=labels[chosen],
        label_names=tuple(map(str, range(10))),
        source_file=uri,
        fingerprint=hashlib.sha256(images[chosen].tobytes()).hexdigest(),
    )
