"""Training with scikit-learn: a classifier is fitted once, to all of the data.

Rules:
    * There is one epoch and nothing to resume; batch size, learning rate and label smoothing do not apply.
    * Pictures go through the predictor's own preprocessing, features included.
    * The best weights are the fitted estimator, in a file of joblib. Reading one runs the code in it: a run is read
      only if the file is the one that its record has the SHA-256 of.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import sklearn

from controller.lifecycle.importers.sklearn_model import scores_of
from controller.lifecycle.training.data import TrainingData
from controller.lifecycle.training.learner import Batch
from controller.lifecycle.training.loop import cross_entropy
from controller.lifecycle.training.record import RunRecord, TrainingConfig
from controller.lifecycle.training.run import best_weights, finished_run, run_training
from controller.lifecycle.training.samples import Pixels
from controller.lifecycle.training.sklearn_architectures import build, preprocess_of
from runtime.errors import DatasetError
from runtime.files import replace_bytes
from runtime.manifest import Preprocess, Tensor
from runtime.preprocess import Preprocessor

__all__ = ["SklearnLearner", "load_run", "train"]

LEAST_PROBABILITY = 1e-9  # whose logarithm is taken
JUDGED = 2048  # pictures that the training loss is computed of: a support vector machine answers slowly


def train(config: TrainingConfig, *, resume: bool = False) -> RunRecord:
    """Train as `controller.lifecycle.training.run.train` says, with scikit-learn."""
    return run_training(config, _make, resume=resume)


def _make(config: TrainingConfig, data: TrainingData) -> SklearnLearner:
    return SklearnLearner(
        estimator=build(config.arch, config.seed),
        preprocess=preprocess_of(config.arch, data.image_size, gray=data.train.gray),
        labels=data.labels,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SklearnLearner:
    """A classifier of scikit-learn.

    Attributes:
        estimator: It.
        preprocess: What a picture goes through before it; the result is flattened.
        labels: The classes, in order.
    """

    estimator: Any
    preprocess: Preprocess
    labels: tuple[str, ...]

    @property
    def framework(self) -> str:
        """The framework with its version."""
        return f"scikit-learn {sklearn.__version__}"

    @property
    def device(self) -> str:
        """Where it computes."""
        return "cpu"

    def fit(self, batches: Iterator[Batch]) -> Iterator[tuple[float, int]]:
        """Fit the classifier to all *batches* at once, and yield its loss on some of the pictures.

        Raises:
            DatasetError: A class has no picture.
        """
        rows, labels = [], []
        for batch in batches:
            rows.append(self._rows(batch.images))
            labels.append(batch.labels)
        every, known = np.concatenate(rows), np.concatenate(labels)
        if missing := [name for place, name in enumerate(self.labels) if place not in known]:
            raise DatasetError(
                f"there is no training image of {', '.join(missing[:5])}; scikit-learn needs every class"
            )
        self.estimator.fit(every, known)
        yield cross_entropy(self._logits(every[:JUDGED]), known[:JUDGED]) / len(known[:JUDGED]), len(known)

    def scores(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Return logarithms of probabilities, or decisions, (n, classes) for uint8 *images* (n, h, w, 3)."""
        return self._logits(self._rows(images))

    def _logits(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        scores = scores_of(self.estimator, rows)
        if not hasattr(self.estimator, "predict_proba"):
            return scores
        return np.asarray(np.log(np.maximum(scores, LEAST_PROBABILITY)), np.float32)

    def _rows(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Return what the classifier takes for uint8 *images* (n, h, w, 3): float32 (n, length)."""
        size, features = images.shape[1], self.preprocess.features
        channels = 1 if self.preprocess.color == "L" else 3
        shape = (size, size, channels) if features is None else (features.length(size, size),)
        prepared = Preprocessor(self.preprocess, Tensor(name="rows", dtype="float32", shape=("N", *shape)))
        return np.stack([np.asarray(prepared(image), np.float32).ravel() for image in images])

    def save_best(self, path: Path) -> None:
        """Write the estimator to *path*, atomically."""
        buffer = io.BytesIO()
        joblib.dump(self.estimator, buffer)
        replace_bytes(path, buffer.getvalue())


def load_run(directory: Path) -> Any:
    """Return the estimator that the scikit-learn run in *directory* left.

    Raises:
        TrainingError: There is no finished run, or its files are not the ones that it wrote.
    """
    return joblib.load(best_weights(directory, finished_run(directory)))
