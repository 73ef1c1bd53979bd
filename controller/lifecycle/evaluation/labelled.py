"""Labelled pictures, for training and for judging.

Rules:
    * An image that cannot be used is counted by its reason and left out.
    * A row without a label, or with one outside the classes, is an error: it would make every figure wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from runtime.datasets import Dataset, Row
from runtime.errors import DatasetError, ImageError
from runtime.images import load

__all__ = ["describe_skipped", "usable_rows"]

Pixels = npt.NDArray[np.uint8]


def usable_rows(dataset: Dataset, skipped: Counter[str] | None = None) -> Iterator[tuple[Pixels, int]]:
    """Yield (picture, label) of each usable row; what cannot be used is counted into *skipped* by reason.

    Raises:
        DatasetError: A row has no label.
    """
    for row in dataset.rows():
        label = _label(row, dataset)
        try:
            if row.image is None:
                raise ImageError("missing", "the row has no image")  # noqa: TRY301 - one place counts all reasons
            yield load(row.image), label
        except ImageError as error:
            if skipped is not None:
                skipped[error.reason] += 1


def _label(row: Row, dataset: Dataset) -> int:
    names = dataset.label_names
    if row.label is None:
        raise DatasetError(
            f"dataset {dataset.uri} has no label in row {row.source_row} of {row.source_file}; "
            "training and evaluation need an integer column 'label', or the one that --label-column names"
        )
    if row.label < 0 or (names is not None and row.label >= len(names)):
        most = f"0 to {len(names) - 1}" if names is not None else "0 or above"
        raise DatasetError(
            f"dataset {dataset.uri}: label {row.label} in row {row.source_row} of {row.source_file}; expected {most}"
        )
    return row.label


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return what was left out, as text: ``3 truncated, 1 empty``."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "no rows"
