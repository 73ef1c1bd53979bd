"""The two passes over the images: minima and maxima first, then histograms between them.

Rules:
    * Every value is reduced as soon as it is there; what is kept does not grow with the images.
    * A value that is not finite ends the calibration: no range can hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from controller.errors import ExportError
from controller.lifecycle.quantization.calibration.histogram import Histogram
from controller.lifecycle.quantization.calibration.ranges import Range
from controller.lifecycle.quantization.calibration.taps import Taps

__all__ = ["measure_extremes", "measure_histograms"]

Batches = Iterable[npt.NDArray[np.generic]]


def measure_extremes(taps: Taps, batches: Batches) -> tuple[dict[str, Range], int]:
    """Return the lowest and highest value of each tensor over *batches*, and how many pictures they had.

    Raises:
        ExportError: A value is NaN or infinite.
        ModelError: The graph does not run.
    """
    found: dict[str, Range] = {}
    pictures = 0
    for batch in batches:
        pictures += len(batch)
        for name, values in taps.run(batch):
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise ExportError(f"tensor {name!r} holds NaN or infinity on a calibration image; it has no range")
            before = found.get(name, (low, high))
            found[name] = (min(before[0], low), max(before[1], high))
    return found, pictures


def measure_histograms(taps: Taps, batches: Batches, extremes: Mapping[str, Range]) -> dict[str, Histogram]:
    """Return the histogram of each tensor over *batches*.

    Args:
        taps: On the tensors.
        batches: The same pictures that gave *extremes*.
        extremes: Of `measure_extremes`.

    Raises:
        ModelError: The graph does not run.
    """
    histograms = {name: Histogram(*limits) for name, limits in extremes.items()}
    for batch in batches:
        for name, values in taps.run(batch):
            if name in histograms:
                histograms[name].add(values)
    return histograms
