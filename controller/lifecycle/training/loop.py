"""The training loop.

Rules:
    * Everything random follows from the seed, and the order and augmentation of an epoch from seed
      and epoch alone; so a resumed run ends with the same bits as an uninterrupted one.
    * After each epoch the weights (if they are the best so far), the record and the metrics are
      written, the checkpoint last: what it says is done is on the disk.
    * The best epoch is the one with the highest held-out accuracy; of equal ones that with the lowest loss.
    * Mixed precision on a GPU only: on a CPU it is slower.

AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019. Cosine schedule: the
same authors, "SGDR", 2017. Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", 2016.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from controller.errors import TrainingError
from controller.lifecycle.training import augment, samples
from controller.lifecycle.training.checkpoint import Checkpoint, save_weights
from controller.lifecycle.training.record import (
    BEST_FILE,
    LAST_FILE,
    METRICS_FILE,
    BestEpoch,
    RunRecord,
    TrainingConfig,
)
from runtime.files import hash_file, replace_bytes
from runtime.manifest import Preprocess
from runtime.terminal import Progress, progress

__all__ = ["Trainer", "TrainingData", "cosine"]

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Everything that a run learns from and is judged by."""

    train: samples.Samples
    held_out: samples.Samples
    labels: tuple[str, ...]
    preprocess: Preprocess
    transforms: tuple[str, ...]


def cosine(step: int, steps: int) -> float:
    """Return the share of the learning rate at *step* of *steps*: 1 at the start, falling to 0 along a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(slots=True, kw_only=True)
class Trainer:
    """A model, what it learns from, and how far it came."""

    config: TrainingConfig
    data: TrainingData
    record: RunRecord
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches; a single picture left over joins the last one, for batch normalization's sake."""
        count, size = len(self.data.train), self.config.batch_size
        return max(1, count // size if count % size <= 1 else math.ceil(count / size))

    def run(self) -> None:
        """Run the epochs that are left."""
        todo = self.config.epochs - len(self.history)
        with progress(todo * self.steps_per_epoch, "training", "batches") as bar:
            for epoch in range(len(self.history), self.config.epochs):
                began = time.perf_counter()
                train_loss = self._fit(epoch, bar)
                loss, accuracy = self._evaluate()
                self.history.append(
                    {
                        "epoch": epoch + 1,
                        "train_loss": round(train_loss, 6),
                        "loss": round(loss, 6),
                        "accuracy": round(accuracy, 6),
                        "learning_rate": self._rate((epoch + 1) * self.steps_per_epoch - 1),
                        "seconds": round(time.perf_counter() - began, 3),
                    }
                )
                self._save(epoch + 1, loss, accuracy)

    def identity(self) -> dict[str, Any]:
        """Return what must not change between the parts of one run."""
        data = {"train data": self.data.train.record, "held-out data": self.data.held_out.record}
        return {
            **self.config.described(),
            **{f"fingerprint of the {name}": record.fingerprint for name, record in data.items()},
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to the state of *checkpoint*.

        Raises:
            UsageError: It belongs to a run of other options or data.
        """
        checkpoint.check_identity(self.identity())
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scaler.load_state_dict(checkpoint.scaler)
        torch.set_rng_state(checkpoint.generators[0])
        torch.cuda.set_rng_state_all(checkpoint.generators[1:])
        self.history = checkpoint.history
        best = None if checkpoint.best is None else BestEpoch(**checkpoint.best)
        update = {"epochs_done": checkpoint.epochs_done, "best": best, "best_sha256": checkpoint.best_sha256}
        self.record = self.record.model_copy(update=update)

    def _rate(self, step: int) -> float:
        return self.config.learning_rate * cosine(step, self.config.epochs * self.steps_per_epoch)

    def _fit(self, epoch: int, bar: Progress) -> float:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.train), generator=generator).numpy()
        self.model.train()
        total = 0.0
        for number, chosen in enumerate(np.array_split(order, self.steps_per_epoch)):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(epoch * self.steps_per_epoch + number)
            images, labels = self._batch(self.data.train, np.sort(chosen))
            for name in self.data.transforms:
                images = augment.TRANSFORMS[name](images, generator)
            loss = self._step(self._normalized(images), labels)
            total += loss * len(chosen)
            last = self.history[-1]["accuracy"] if self.history else None
            bar.advance(epoch=epoch + 1, loss=f"{loss:.3f}", accuracy="-" if last is None else f"{last:.2%}")
        return total / len(self.data.train)

    def _step(self, images: Tensor, labels: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            logits = self.model(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} with learning rate {self.config.learning_rate}; try a smaller --learning-rate"
            )
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, float]:
        """Return (mean loss, accuracy) on the held-out data."""
        self.model.eval()
        loss, right = 0.0, 0
        for start in range(0, len(self.data.held_out), EVALUATION_BATCH):
            images, labels = self._batch(self.data.held_out, slice(start, start + EVALUATION_BATCH))
            logits = self.model(self._normalized(images)).float()
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
        return loss / len(self.data.held_out), right / len(self.data.held_out)

    def _batch(self, part: samples.Samples, chosen: Any) -> tuple[Tensor, Tensor]:
        """Return uint8 (n, 3, h, w) on the CPU, where the augmentation works, and the labels on the device."""
        images = torch.from_numpy(np.array(part.images[chosen])).permute(0, 3, 1, 2)
        return images, torch.from_numpy(part.labels[chosen].copy()).to(self.device)

    def _normalized(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.data.preprocess.mean, device=self.device)[:, None, None]
        std = torch.tensor(self.data.preprocess.std, device=self.device)[:, None, None]
        scaled = images.to(self.device).float() * self.data.preprocess.scale
        return ((scaled - mean) / std).contiguous()

    def _save(self, epoch: int, loss: float, accuracy: float) -> None:
        out, best = self.config.out, self.record.best
        weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
        update: dict[str, Any] = {"epochs_done": epoch}
        if best is None or (accuracy, -loss) > (best.accuracy, -best.loss):
            save_weights(out / BEST_FILE, weights)
            update["best"] = BestEpoch(epoch=epoch, accuracy=accuracy, loss=loss)
            update["best_sha256"] = hash_file(out / BEST_FILE)
        self.record = self.record.model_copy(update=update)
        self.record.save(out)
        replace_bytes(out / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in self.history).encode())
        Checkpoint(
            identity=self.identity(),
            epochs_done=epoch,
            best=None if self.record.best is None else self.record.best.model_dump(),
            best_sha256=self.record.best_sha256,
            model=weights,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            generators=[torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            history=self.history,
        ).save(out / LAST_FILE)
