"""Ranges of a graph's activations from real images: `Calibration` measures once and answers for every method.

Rules:
    * Images are read again for the second pass: none are kept.
    * The second pass happens when a method needs histograms, and serves all of them.
    * What was measured is kept in the cache, if there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from controller.lifecycle.quantization.calibration.cache import Cache, cache_key
from controller.lifecycle.quantization.calibration.histogram import Histogram
from controller.lifecycle.quantization.calibration.images import CALIBRATION_IMAGES, calibration_batches
from controller.lifecycle.quantization.calibration.methods import METHODS
from controller.lifecycle.quantization.calibration.ranges import Range, Ranges
from controller.lifecycle.quantization.calibration.stream import measure_extremes, measure_histograms
from controller.lifecycle.quantization.calibration.taps import Taps
from controller.lifecycle.quantization.calibration.tensors import calibrated_tensors
from runtime.datasets import Dataset
from runtime.errors import UsageError
from runtime.manifest import CustomOps
from runtime.preprocess import Preprocessor
from runtime.terminal import progress

__all__ = ["Calibration"]

Array = npt.NDArray[Any]


class Calibration:
    """The images that calibrate one graph, and what was measured on them.

    Attributes:
        model: As `controller.lifecycle.quantization.quantize.prepare` returned it.
        images: Of the dataset that are used, at most.
        fixed_batch: The only size of a batch that the graph takes, if so.
        custom_ops: Libraries of operators that the graph needs.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        dataset: Dataset,
        preprocessor: Preprocessor,
        *,
        images: int = CALIBRATION_IMAGES,
        custom_ops: Sequence[CustomOps] = (),
        cache: Path | None = None,
    ) -> None:
        """Measure nothing yet.

        Args:
            model: Prepared.
            dataset: Has the images.
            preprocessor: Brings one to the graph's input.
            images: To use, at most.
            custom_ops: Libraries of operators that the graph needs.
            cache: Directory for what was measured; ``None``: it is not kept.
        """
        self.model, self.images, self.custom_ops = model, images, tuple(custom_ops)
        self._dataset, self._preprocessor, self._directory = dataset, preprocessor, cache
        size = preprocessor.tensor.shape[0]
        self.fixed_batch = size if isinstance(size, int) else None
        self._tensors = calibrated_tensors(model)
        self._extremes: tuple[dict[str, Range], int] | None = None
        self._histograms: dict[str, Histogram] | None = None

    def of(self, model: onnx.ModelProto) -> Calibration:
        """Return the calibration of another *model* by the same images."""
        return Calibration(
            model,
            self._dataset,
            self._preprocessor,
            images=self.images,
            custom_ops=self.custom_ops,
            cache=self._directory,
        )

    def batches(self, pictures: int, limit: int | None = None) -> Iterator[Array]:
        """Yield batches of what the graph takes, *pictures* in each, or the fixed batch.

        Args:
            pictures: In a batch; the last may have fewer.
            limit: Images in all; ``None``: `images`.

        Raises:
            DatasetError: There are not enough usable images.
        """
        return calibration_batches(
            self._dataset,
            self._preprocessor,
            self.fixed_batch or pictures,
            self.images if limit is None else limit,
            whole=self.fixed_batch is not None,
        )

    def taps(self, model: onnx.ModelProto, names: Sequence[str]) -> Taps:
        """Return taps on the tensors *names* of *model*, which takes what `model` takes."""
        example = next(self.batches(1, limit=self.fixed_batch or 1))
        return Taps.on(model, names, example, fixed_batch=self.fixed_batch, custom_ops=self.custom_ops)

    def ranges(self, method: str = "minmax", *, symmetric: bool = False) -> Ranges:
        """Return the ranges that *method* finds.

        Args:
            method: A key of `controller.lifecycle.quantization.calibration.methods.METHODS`.
            symmetric: Zero will stand for zero.

        Raises:
            UsageError: There is no such method.
            DatasetError: There are not enough usable images.
            ExportError: A value is NaN or infinite.
            ModelError: The graph does not run.
        """
        if method not in METHODS:
            raise UsageError(f"calibration method {method!r} is not known; expected {', '.join(METHODS)}")
        extremes, pictures = self._measured_extremes()
        if method == "minmax":
            found = dict(extremes)
        else:
            found = {
                name: METHODS[method](histogram, symmetric=symmetric) for name, histogram in self._measured().items()
            }
        same = {name: found[other] for name, other in self._tensors.same.items() if other in found}
        return Ranges(method=method, images=pictures, values={**found, **same})

    def _measured_extremes(self) -> tuple[dict[str, Range], int]:
        if self._extremes is None and self._cache:
            self._extremes = self._cache.read_extremes()
        if self._extremes is None:
            taps = self.taps(self.model, self._tensors.measured)
            self._extremes = measure_extremes(taps, self._counted(taps, "calibrating: ranges"))
            if self._cache:
                self._cache.write_extremes(*self._extremes)
        return self._extremes

    def _measured(self) -> dict[str, Histogram]:
        if self._histograms is None and self._cache:
            self._histograms = self._cache.read_histograms()
        if self._histograms is None:
            extremes, _ = self._measured_extremes()
            taps = self.taps(self.model, self._tensors.measured)
            batches = self._counted(taps, "calibrating: histograms")
            self._histograms = measure_histograms(taps, batches, extremes)
            if self._cache:
                self._cache.write_histograms(self._histograms)
        return self._histograms

    def _counted(self, taps: Taps, label: str) -> Iterator[Array]:
        total = min(len(self._dataset), self.images)
        with progress(total, label, "images") as bar:
            for batch in self.batches(taps.pictures):
                yield batch
                bar.advance(len(batch))

    @property
    def _cache(self) -> Cache | None:
        if self._directory is None:
            return None
        key = cache_key(
            self.model.SerializeToString(deterministic=True),
            self._dataset.fingerprint.encode(),
            self._preprocessor.preprocess.model_dump_json().encode(),
            str(self.images).encode(),
        )
        return Cache(directory=self._directory, key=key)
