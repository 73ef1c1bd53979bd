"""Training with Keras, on torch: a Keras model is a torch module there, and learns as one.

Rules:
    * The best weights are a whole ``.keras`` file: Keras itself opens it, with any backend.
    * Which architecture they belong to the record says; they are loaded into a new one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from controller.lifecycle.importers.keras_model import put_weights
from controller.lifecycle.keras_backend import load_keras
from controller.lifecycle.training.data import TrainingData
from controller.lifecycle.training.keras_architectures import build
from controller.lifecycle.training.record import RunRecord, TrainingConfig
from controller.lifecycle.training.run import load_best, run_training
from controller.lifecycle.training.torch_learner import TorchLearner, deterministic
from runtime.files import replace_bytes

if TYPE_CHECKING:
    import keras

__all__ = ["KerasLearner", "load_run", "train"]


def train(config: TrainingConfig, *, resume: bool = False) -> RunRecord:
    """Train as `controller.lifecycle.training.run.train` says, with Keras."""
    load_keras().utils.set_random_seed(config.seed)  # its initializers draw from Python's own generator
    with deterministic(config.seed):
        return run_training(config, _make, resume=resume)


def _make(config: TrainingConfig, data: TrainingData) -> KerasLearner:
    model = build(config.arch, len(data.labels), data.image_size)
    if config.weights is not None:
        put_weights(model, Path(config.weights))
    return KerasLearner(config=config, preprocess=data.preprocess, model=model)


@dataclass(slots=True, kw_only=True)
class KerasLearner(TorchLearner):
    """A Keras model that learns by torch's AdamW."""

    model: keras.Model

    @property
    def framework(self) -> str:
        """The framework with its version."""
        return f"keras {load_keras().version()}"

    def logits(self, images: Tensor, *, training: bool) -> Tensor:
        """Return what the model gives for float32 *images* (n, h, w, 3)."""
        logits: Tensor = self.model(images, training=training)
        return logits

    def weights(self) -> dict[str, Tensor]:
        """Return the variables by their places: their names count the layers that the process has made before."""
        return {str(place): variable.value.detach().cpu() for place, variable in enumerate(self.model.variables)}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put into the model what `weights` returned."""
        for place, variable in enumerate(self.model.variables):
            variable.assign(weights[str(place)])

    def save_best(self, path: Path) -> None:
        """Write the model to *path*, atomically."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp") as scratch:
            file = Path(scratch) / path.name
            self.model.save(file)
            replace_bytes(path, file.read_bytes())


def load_run(directory: Path) -> keras.Model:
    """Load the best weights that the Keras run in *directory* left, into its model.

    Raises:
        TrainingError: There is no finished run, or its files are not the ones that it wrote.
    """
    return load_best(directory, build, lambda model, weights, _record: model.load_weights(weights))[0]
