"""A training run from its configuration to its directory, begun or resumed.

Rules:
    * A directory holds one run: an existing one is resumed on request, never overwritten.
    * What is resumed must be the same run: options and data are compared first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from controller.errors import TrainingError
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.provenance import git_revision
from controller.lifecycle.training import augment, samples
from controller.lifecycle.training.architectures import build, resolve
from controller.lifecycle.training.checkpoint import Checkpoint, load_weights
from controller.lifecycle.training.curves import draw_curves
from controller.lifecycle.training.loop import Trainer, TrainingData
from controller.lifecycle.training.record import BEST_FILE, CURVES_FILE, LAST_FILE, RUN_FILE, RunRecord, TrainingConfig
from runtime.errors import DatasetError, UsageError
from runtime.files import exclusive_lock, hash_file

__all__ = ["TrainedModel", "load_run", "train"]

CUBLAS_WORKSPACE = ":4096:8"  # what cuBLAS needs to be deterministic, by its documentation
LOCK_FILE = ".lock"


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seed torch, and have it refuse or replace operations that are not deterministic, for a while."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def train(config: TrainingConfig, *, resume: bool = False) -> RunRecord:
    """Train as *config* says.

    Args:
        config: What to train, on what, and where to leave it.
        resume: Go on from the last checkpoint in ``config.out``, if there is one.

    Returns:
        The record of the finished run.

    Raises:
        UsageError: The directory holds another run, or the architecture is unknown or does not fit.
        DatasetError: The data cannot be read, is empty, or lacks labels.
        TrainingError: The training diverged, or the checkpoint is not usable.
    """
    resolve(config.arch)  # a wrong name is said before the data is read
    if (config.out / RUN_FILE).exists() and not resume:
        raise UsageError(
            f"{config.out} holds a training run already; --resume goes on with it, another --out leaves it"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(config.out / LOCK_FILE, f"training run {config.out}"), _deterministic(config.seed):
        trainer = _build_trainer(config, _read_data(config))
        checkpoint = config.out / LAST_FILE
        if resume and checkpoint.exists():
            trainer.resume(Checkpoint.load(checkpoint))
        else:
            trainer.record.save(config.out)
        trainer.run()
        draw_curves(trainer.history, f"{config.arch} on {config.data}", config.out / CURVES_FILE)
        return trainer.record


def _read_data(config: TrainingConfig) -> TrainingData:
    learn, judge = open_with_held_out(
        config.data,
        config.validation,
        seed=config.seed,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    size = config.image_size or samples.choose_image_size(learn)
    train_part = samples.prepare(learn, size, config.out, "training data")
    held_out = samples.prepare(judge, size, config.out, "held-out data")
    labels = samples.labels_of(learn, train_part, held_out)
    if len(train_part) < 2 or len(labels) < 2:
        raise DatasetError(
            f"dataset {config.data} has {len(train_part)} usable images of {len(labels)} classes; "
            "2 images and 2 classes are the least"
        )
    return TrainingData(
        train=train_part,
        held_out=held_out,
        labels=labels,
        preprocess=samples.channel_statistics(train_part),
        transforms=augment.choose(config.augment, labels, gray=train_part.gray),
    )


def _build_trainer(config: TrainingConfig, data: TrainingData) -> Trainer:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = int(data.train.images.shape[1])
    model = build(config.arch, len(data.labels), size).to(device)
    record = RunRecord(
        arch=config.arch,
        labels=data.labels,
        image_size=size,
        preprocess=data.preprocess,
        train=data.train.record,
        held_out=data.held_out.record,
        augmentation=data.transforms,
        config=config.described(),
        epochs_done=0,
        best=None,
        best_sha256=None,
        device=str(device),
        framework=f"torch {torch.__version__.partition('+')[0]}",
        git=git_revision(),
        created=datetime.now(UTC),
    )
    return Trainer(
        config=config,
        data=data,
        record=record,
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay),
        scaler=torch.amp.GradScaler(device.type, enabled=device.type == "cuda"),
        device=device,
    )


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The best weights of a finished run, in the model, in eval mode on the CPU."""

    model: nn.Module
    record: RunRecord


def load_run(directory: Path) -> TrainedModel:
    """Load what the run in *directory* trained.

    Raises:
        TrainingError: There is no finished run, or its files are not the ones that it wrote.
    """
    record = RunRecord.load(directory)
    if not record.finished:
        raise TrainingError(
            f"the run in {directory} ended after {record.epochs_done} of {record.config['epochs']} epochs; "
            "finish it with `vedette train ... --resume`"
        )
    weights = directory / BEST_FILE
    if not weights.is_file() or hash_file(weights) != record.best_sha256:
        raise TrainingError(f"{weights} is not the file that the run wrote; its SHA-256 must be {record.best_sha256}")
    model = build(record.arch, len(record.labels), record.image_size)
    try:
        model.load_state_dict(load_weights(weights))
    except RuntimeError as error:
        raise TrainingError(
            f"{weights} does not fit the architecture {record.arch!r}: {' '.join(str(error).split())[:300]}"
        ) from None
    return TrainedModel(model.eval(), record)
