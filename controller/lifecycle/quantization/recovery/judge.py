"""How near a quantized graph is to fp32, and how much faster: without labels, on calibration images.

Rules:
    * The fp32 answers are computed once. What is kept of images and answers has a limit in bytes: fewer images are
      looked at where they are large.
    * The figure is the signal to quantization noise ratio of the output where it is worst; beside it, for scores of
      classes, the share of images with the same best class.
    * A graph that chooses its rows itself may give another number of them: that batch's answer is all noise then.
    * Speed is compared in turns, on one thread, one picture (or the fixed batch) a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from controller.lifecycle.evaluation.evaluate import measure_latency
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.sqnr import sqnr_db
from runtime.session import Session

__all__ = ["JUDGED", "Fidelity", "Judge"]

JUDGED = 128  # images at most
MOST_BYTES = 128_000_000  # of inputs and answers that are kept
BATCH = 8  # images
SCORES_RANK = 2  # of an output that holds scores of classes: (n, classes)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How near a graph's answers are to those of fp32.

    Attributes:
        sqnr: Of the worst output, dB.
        agreement: Share of the images with the same best class; ``None`` where no output holds scores of classes.
        images: That it was measured on.
    """

    sqnr: float
    agreement: float | None
    images: int


class Judge:
    """Compares graphs with one in fp32."""

    def __init__(self, calibration: Calibration, images: int = JUDGED) -> None:
        """Run the calibrated model, in fp32, on *images* of its calibration, at most.

        Raises:
            ModelError: It does not run.
            DatasetError: There are not enough usable images.
        """
        self._custom_ops = calibration.custom_ops
        self._fp32 = calibration.model
        self._kept: list[tuple[Array, list[Array]]] = []
        session, size = self._open(calibration.model), 0
        for batch in calibration.batches(BATCH, limit=images):
            answers = session.run(batch)
            size += batch.nbytes + sum(answer.nbytes for answer in answers)
            if self._kept and size > MOST_BYTES:
                break
            self._kept.append((batch, answers))

    @property
    def images(self) -> int:
        """How many are looked at."""
        return sum(len(batch) for batch, _ in self._kept)

    def fidelity(self, model: onnx.ModelProto) -> Fidelity:
        """Return how near *model* is.

        Raises:
            ModelError: It does not run.
        """
        session = self._open(model)
        sums: list[list[float]] = [[0.0, 0.0] for _ in session.outputs]
        same: list[bool] = []
        for batch, expected in self._kept:
            found = session.run(batch)
            for total, ours, theirs in zip(sums, found, expected, strict=True):
                reference = theirs.astype(np.float64)
                signal = float(np.sum(np.square(reference)))
                total[0] += signal
                total[1] += float(np.sum(np.square(ours - reference))) if ours.shape == theirs.shape else signal
            same += _same_class(found, expected)
        return Fidelity(
            sqnr=min(sqnr_db(signal, noise) for signal, noise in sums),
            agreement=float(np.mean(same)) if same else None,
            images=self.images,
        )

    def speedup(self, model: onnx.ModelProto) -> float:
        """Return how many times faster than in fp32 *model* is on this machine's CPU."""
        batch = self._kept[0][0]
        one = batch if isinstance(self._open(self._fp32).image.shape[0], int) else batch[:1]
        with TemporaryDirectory(prefix="vedette-judge-") as scratch:
            paths = {name: Path(scratch) / f"{name}.onnx" for name in ("fp32", "int8")}
            onnx.save(self._fp32, paths["fp32"])
            onnx.save(model, paths["int8"])
            latency = measure_latency(paths, one, self._custom_ops)
        return latency["fp32"] / latency["int8"]

    def _open(self, model: onnx.ModelProto) -> Session:
        with TemporaryDirectory(prefix="vedette-judge-") as scratch:
            path = Path(scratch) / "model.onnx"
            onnx.save(model, path)
            return Session(path, custom_ops=self._custom_ops)


def _same_class(found: Sequence[Array], expected: Sequence[Array]) -> list[bool]:
    for ours, theirs in zip(found, expected, strict=True):
        if (
            ours.shape == theirs.shape
            and theirs.ndim == SCORES_RANK
            and theirs.shape[1] > 1
            and np.issubdtype(theirs.dtype, np.floating)
        ):
            return [bool(same) for same in ours.argmax(1) == theirs.argmax(1)]
    return []
