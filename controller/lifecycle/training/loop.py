"""The training loop, the same for every framework.

Rules:
    * Everything random follows from the seed; so a resumed run ends with the same bits as an uninterrupted one.
    * After each epoch the weights (if they are the best so far), the record and the metrics are
      written, the checkpoint last: what it says is done is on the disk.
    * The best epoch is the one with the highest held-out accuracy; of equal ones that with the lowest loss.

Cosine schedule: Loshchilov and Hutter, "SGDR", 2017.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.errors import TrainingError
from controller.lifecycle.training.data import TrainingData, cosine, epoch_batches, steps_per_epoch
from controller.lifecycle.training.frameworks import Framework
from controller.lifecycle.training.learner import Learner, ResumableLearner
from controller.lifecycle.training.record import METRICS_FILE, BestEpoch, RunRecord, TrainingConfig
from controller.lifecycle.training.samples import Samples
from runtime.errors import UsageError
from runtime.files import hash_file, replace_bytes
from runtime.terminal import Progress, progress

__all__ = ["Trainer", "cross_entropy", "judge"]

EVALUATION_BATCH = 256
PROGRESS = ("identity", "epochs_done", "best", "best_sha256", "history")
"""What a checkpoint holds beside what the learner puts there."""


def cross_entropy(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the summed cross-entropy of logits *scores* (n, classes) against *labels* (n,)."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return float(np.sum(np.log(np.exp(shifted).sum(axis=1)) - chosen))


def judge(learner: Learner, part: Samples) -> tuple[float, float]:
    """Return (mean loss, accuracy) of what *learner* answers on *part*."""
    loss, right = 0.0, 0
    for start in range(0, len(part), EVALUATION_BATCH):
        chosen = slice(start, start + EVALUATION_BATCH)
        scores, labels = learner.scores(np.array(part.images[chosen])), part.labels[chosen]
        loss += cross_entropy(scores, labels)
        right += int((scores.argmax(axis=1) == labels).sum())
    return loss / len(part), right / len(part)


@dataclass(slots=True, kw_only=True)
class Trainer:
    """A learner, what it learns from, and how far it came."""

    config: TrainingConfig
    data: TrainingData
    framework: Framework
    learner: Learner
    record: RunRecord
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return steps_per_epoch(len(self.data.train), self.config.batch_size)

    def run(self) -> None:
        """Run the epochs that are left."""
        todo = self.config.epochs - len(self.history)
        with progress(todo * self.steps, "training", "batches") as bar:
            for epoch in range(len(self.history), self.config.epochs):
                began = time.perf_counter()
                train_loss = self._fit(epoch, bar)
                loss, accuracy = judge(self.learner, self.data.held_out)
                last_step = (epoch + 1) * self.steps - 1
                self.history.append(
                    {
                        "epoch": epoch + 1,
                        "train_loss": round(train_loss, 6),
                        "loss": round(loss, 6),
                        "accuracy": round(accuracy, 6),
                        "learning_rate": self.config.learning_rate * cosine(last_step, self.config.epochs * self.steps),
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

    def resume(self, checkpoint: Path) -> None:
        """Go back to the state in *checkpoint*, a file.

        Raises:
            TrainingError: It is no checkpoint of a run.
            UsageError: It belongs to a run of other options or data, or of a learner that cannot go on.
        """
        if not isinstance(self.learner, ResumableLearner):
            raise UsageError(f"a run of framework {self.config.framework!r} cannot be resumed; leave --resume out")
        content = self.learner.read_last(checkpoint)
        if missing := [name for name in PROGRESS if name not in content]:
            raise TrainingError(f"the checkpoint in {self.config.out} is of no run: it has no {', '.join(missing)}")
        self._check_identity(content["identity"])
        self.learner.restore(content)
        self.history = list(content["history"])
        best = None if content["best"] is None else BestEpoch(**content["best"])
        update = {"epochs_done": content["epochs_done"], "best": best, "best_sha256": content["best_sha256"]}
        self.record = self.record.model_copy(update=update)

    def _check_identity(self, before: Mapping[str, Any]) -> None:
        changed = [
            f"{name} was {before.get(name)!r} and is {value!r}"
            for name, value in self.identity().items()
            if before.get(name) != value
        ]
        if changed:
            raise UsageError(f"cannot resume: {'; '.join(changed)}; use the same options, or another --out")

    def _fit(self, epoch: int, bar: Progress) -> float:
        """Learn one epoch; return its mean loss."""
        total, pictures, steps = 0.0, 0, 0
        last = f"{self.history[-1]['accuracy']:.2%}" if self.history else "-"
        for loss, count in self.learner.fit(epoch_batches(self.data, self.config, epoch)):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} with learning rate {self.config.learning_rate}; "
                    "try a smaller --learning-rate"
                )
            total, pictures, steps = total + loss * count, pictures + count, steps + 1
            bar.advance(epoch=epoch + 1, loss=f"{loss:.3f}", accuracy=last)
        bar.advance(self.steps - steps)
        return total / pictures

    def _save(self, epoch: int, loss: float, accuracy: float) -> None:
        out, best = self.config.out, self.record.best
        update: dict[str, Any] = {"epochs_done": epoch}
        if best is None or (accuracy, -loss) > (best.accuracy, -best.loss):
            self.learner.save_best(out / self.framework.best)
            update["best"] = BestEpoch(epoch=epoch, accuracy=accuracy, loss=loss)
            update["best_sha256"] = hash_file(out / self.framework.best)
        self.record = self.record.model_copy(update=update)
        self.record.save(out)
        replace_bytes(out / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in self.history).encode())
        if self.framework.last is not None and isinstance(self.learner, ResumableLearner):
            self.learner.save_last(out / self.framework.last, self._progress())

    def _progress(self) -> dict[str, Any]:
        record = self.record
        return {
            "identity": self.identity(),
            "epochs_done": record.epochs_done,
            "best": None if record.best is None else record.best.model_dump(),
            "best_sha256": record.best_sha256,
            "history": self.history,
        }
