"""A training run from its configuration to its directory, begun or resumed, in any framework.

Rules:
    * A directory holds one run: an existing one is resumed on request, never overwritten.
    * What is resumed must be the same run: options and data are compared first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from controller.errors import TrainingError
from controller.lifecycle.provenance import git_revision
from controller.lifecycle.training.curves import draw_curves
from controller.lifecycle.training.data import TrainingData, read_data
from controller.lifecycle.training.frameworks import FRAMEWORKS, Framework, framework_of, resolve
from controller.lifecycle.training.learner import Learner
from controller.lifecycle.training.loop import Trainer
from controller.lifecycle.training.record import CURVES_FILE, RUN_FILE, RunRecord, TrainingConfig
from runtime.errors import UsageError, VedetteError
from runtime.files import exclusive_lock, hash_file

__all__ = ["MakeLearner", "best_weights", "finished_run", "load_best", "run_training", "train"]

LOCK_FILE = ".lock"

Model = TypeVar("Model")

Amend = Callable[[RunRecord], RunRecord]
MakeLearner = Callable[[TrainingConfig, TrainingData], Learner]
"""What a framework's module gives to `run_training`: a new learner for this run.

Raises:
    UsageError: The architecture does not fit.
    ExportError: The weights to begin with cannot be read, or do not fit.
"""


def train(config: TrainingConfig, *, resume: bool = False) -> RunRecord:
    """Train as *config* says.

    Args:
        config: What to train, on what, and where to leave it.
        resume: Go on from the last checkpoint in ``config.out``, if there is one.

    Returns:
        The record of the finished run.

    Raises:
        UsageError: The directory holds another run, the framework is not there, or the architecture is unknown or
            does not fit.
        DatasetError: The data cannot be read, is empty, or lacks labels.
        ExportError: The weights to begin with cannot be read, or do not fit.
        TrainingError: The training diverged, or the checkpoint is not usable.
    """
    framework = framework_of(config.framework)
    if resume and framework.last is None:
        raise UsageError(f"a run of framework {config.framework!r} cannot be resumed; leave --resume out")
    if config.weights is not None and framework.fits_once:
        raise UsageError(f"framework {config.framework!r} is fitted anew; leave --weights out")
    record: RunRecord = importlib.import_module(framework.module).train(config, resume=resume)
    return record


def run_training(
    config: TrainingConfig, make: MakeLearner, *, resume: bool, amend: Amend = lambda record: record
) -> RunRecord:
    """Train what *make* makes: the part of `train` that is the same in every framework, for its module to call.

    Args:
        config: As `train` takes it.
        make: Makes the learner.
        resume: As `train` takes it.
        amend: Adds to the record of the run what only the caller knows; called after *make*.

    Raises:
        VedetteError: As `train`.
    """
    framework = framework_of(config.framework)
    resolve(config.framework, config.arch)  # a wrong name is said before the data is read
    if (config.out / RUN_FILE).exists() and not resume:
        raise UsageError(
            f"{config.out} holds a training run already; --resume goes on with it, another --out leaves it"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(config.out / LOCK_FILE, f"training run {config.out}"):
        trainer = _trainer(config, framework, make)
        trainer.record = amend(trainer.record)
        checkpoint = None if framework.last is None else config.out / framework.last
        if resume and checkpoint is not None and checkpoint.exists():
            trainer.resume(checkpoint)
        else:
            trainer.record.save(config.out)
        trainer.run()
        draw_curves(trainer.history, f"{config.arch} on {config.data}", config.out / CURVES_FILE)
        return trainer.record


def _trainer(config: TrainingConfig, framework: Framework, make: MakeLearner) -> Trainer:
    data = read_data(config)
    learner = make(config, data)
    record = RunRecord(
        trainer=config.framework,
        arch=config.arch,
        labels=data.labels,
        image_size=data.image_size,
        preprocess=learner.preprocess,
        train=data.train.record,
        held_out=data.held_out.record,
        augmentation=data.transforms,
        config=config.described(),
        epochs_done=0,
        best=None,
        best_sha256=None,
        device=learner.device,
        framework=learner.framework,
        git=git_revision(),
        created=datetime.now(UTC),
    )
    return Trainer(config=config, data=data, framework=framework, learner=learner, record=record)


def finished_run(directory: Path) -> RunRecord:
    """Return the record of the run in *directory*, which must be finished.

    Raises:
        TrainingError: There is no run, or it did not end.
    """
    record = RunRecord.load(directory)
    if not record.finished:
        raise TrainingError(
            f"the run in {directory} ended after {record.epochs_done} of {record.config['epochs']} epochs; "
            "finish it with `vedette train ... --resume`"
        )
    return record


def best_weights(directory: Path, record: RunRecord) -> Path:
    """Return the file of the best weights of the run in *directory*, verified.

    Raises:
        TrainingError: It is not the file that the run wrote.
    """
    weights = directory / FRAMEWORKS[record.trainer].best
    if not weights.is_file() or hash_file(weights) != record.best_sha256:
        raise TrainingError(f"{weights} is not the file that the run wrote; its SHA-256 must be {record.best_sha256}")
    return weights


def load_best(
    directory: Path, build: Callable[[str, int, int], Model], load: Callable[[Model, Path, RunRecord], None]
) -> tuple[Model, RunRecord]:
    """Return the model of the run in *directory* with its best weights, and the record of the run.

    Args:
        directory: Of a finished run.
        build: Makes a new model of an architecture, for so many classes and pictures of so many pixels along an edge.
        load: Puts the weights in a file into it, as the record says.

    Raises:
        TrainingError: There is no finished run, or its files are not the ones that it wrote.
        UsageError: The architecture is no longer there, or no longer fits.
    """
    record = finished_run(directory)
    weights = best_weights(directory, record)
    model = build(record.arch, len(record.labels), record.image_size)
    try:
        load(model, weights, record)
    except (RuntimeError, ValueError, VedetteError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(f"{weights} does not fit the architecture {record.arch!r}: {reason}") from None
    return model, record
