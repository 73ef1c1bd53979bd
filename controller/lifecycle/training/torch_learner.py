"""Training with torch.

Rules:
    * Two runs of equal configuration, data and machine give equal weights: operations that are not
      deterministic are refused or replaced.
    * Mixed precision on a GPU only: on a CPU it is slower.

AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019. Label smoothing: Szegedy et al.,
"Rethinking the Inception Architecture", 2016.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from controller.errors import TrainingError
from controller.lifecycle.importers.torch_weights import load_into
from controller.lifecycle.training.architectures import build
from controller.lifecycle.training.checkpoint import load_tensors, save_tensors
from controller.lifecycle.training.data import TrainingData
from controller.lifecycle.training.learner import Batch
from controller.lifecycle.training.record import RunRecord, TrainingConfig
from controller.lifecycle.training.run import load_best, run_training
from controller.lifecycle.training.samples import Pixels
from controller.lifecycle.training.widths import resize
from runtime.manifest import Preprocess

__all__ = ["TorchLearner", "TrainedModel", "best_device", "deterministic", "load_run", "train"]

CUBLAS_WORKSPACE = ":4096:8"  # what cuBLAS needs to be deterministic, by its documentation
STATE = ("model", "optimizer", "scaler", "generators")


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seed torch, and have it refuse or replace operations that are not deterministic, for a while."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def best_device() -> torch.device:
    """Return the device to train on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(config: TrainingConfig, *, resume: bool = False) -> RunRecord:
    """Train as `controller.lifecycle.training.run.train` says, with torch."""
    with deterministic(config.seed):
        return run_training(config, _make, resume=resume)


def _make(config: TrainingConfig, data: TrainingData) -> TorchLearner:
    model = build(config.arch, len(data.labels), data.image_size)
    if config.weights is not None:
        load_into(model, Path(config.weights))
    return TorchLearner(config=config, preprocess=data.preprocess, model=model.to(best_device()))


@dataclass(slots=True, kw_only=True)
class TorchLearner:
    """A torch model that learns by AdamW."""

    config: TrainingConfig
    preprocess: Preprocess
    model: nn.Module
    optimizer: torch.optim.Optimizer = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        self.scaler = torch.amp.GradScaler(self._place.type, enabled=self._place.type == "cuda")

    @property
    def framework(self) -> str:
        """The framework with its version."""
        return f"torch {torch.__version__.partition('+')[0]}"

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self._place)

    @property
    def _place(self) -> torch.device:
        return next(self.model.parameters()).device

    def fit(self, batches: Iterator[Batch]) -> Iterator[tuple[float, int]]:
        """Learn the *batches* of one epoch, and yield the loss of each."""
        self.model.train()
        for batch in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = batch.rate
            yield self._step(batch), len(batch.labels)

    def _step(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of *batch*, to be learned from."""
        labels = torch.from_numpy(batch.labels).to(self._place)
        with torch.autocast(self._place.type, dtype=torch.float16, enabled=self._place.type == "cuda"):
            logits = self.logits(self._normalized(batch.images), training=True)
            return functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def scores(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Return logits (n, classes) for uint8 *images* (n, h, w, 3)."""
        self.model.eval()
        return np.asarray(self.logits(self._normalized(images), training=False).float().cpu().numpy())

    def logits(self, images: Tensor, *, training: bool) -> Tensor:
        """Return what the model, which is in *training* mode or not, gives for float32 *images* (n, h, w, 3)."""
        del training  # a torch module knows by itself
        logits: Tensor = self.model(images.permute(0, 3, 1, 2).contiguous())
        return logits

    def _normalized(self, images: Pixels) -> Tensor:
        mean = torch.tensor(self.preprocess.mean, device=self._place)
        std = torch.tensor(self.preprocess.std, device=self._place)
        return (torch.from_numpy(images).to(self._place).float() * self.preprocess.scale - mean) / std

    def save_best(self, path: Path) -> None:
        """Write the state dict to *path*, atomically."""
        save_tensors(path, self.weights())

    def weights(self) -> dict[str, Tensor]:
        """Return everything that the model keeps, on the CPU, by names that are the same in every process."""
        return {name: value.cpu() for name, value in self.model.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put into the model what `weights` returned."""
        self.model.load_state_dict(weights)

    def save_last(self, path: Path, progress: Mapping[str, Any]) -> None:
        """Write *progress*, weights, optimizer and generators to *path*, atomically.

        The generators' states are for what the model draws itself (dropout); the learning rate, the order and the
        augmentation follow from the epoch.
        """
        state = {
            "model": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }
        save_tensors(path, {**progress, **state})

    def read_last(self, path: Path) -> Mapping[str, Any]:
        """Return what is in *path*.

        Raises:
            TrainingError: It is absent, corrupt, or no checkpoint of a run.
        """
        content = load_tensors(path)
        if not set(STATE) <= set(content):
            raise TrainingError(f"{path} is no checkpoint of a run; it holds {', '.join(sorted(map(str, content)))}")
        return content

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go back to the state of *content*."""
        self.load_weights(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        torch.set_rng_state(content["generators"][0])
        torch.cuda.set_rng_state_all(content["generators"][1:])


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The best weights of a finished run, in the model, in eval mode on the CPU."""

    model: nn.Module
    record: RunRecord


def load_run(directory: Path) -> TrainedModel:
    """Load what the run of torch in *directory* trained.

    Raises:
        TrainingError: There is no finished run, or its files are not the ones that it wrote.
    """
    model, record = load_best(directory, build, _load)
    return TrainedModel(model.eval(), record)


def _load(model: nn.Module, weights: Path, record: RunRecord) -> None:
    state = load_tensors(weights)
    if record.pruning is not None:
        resize(model, record.pruning.widths, state)
    model.load_state_dict(state)
