"""Imports what `vedette train` left: the best weights of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from controller.lifecycle.export import export
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.importers.base import ImportedModel
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.torch_learner import load_run
from runtime.datasets import Dataset
from runtime.errors import DatasetError, UsageError
from runtime.manifest import CustomOps

__all__ = ["load"]


def load(path: Path, custom_ops: Sequence[CustomOps] = ()) -> ImportedModel:
    """Load and export the run in directory *path*.

    Args:
        path: Of the run.
        custom_ops: None: torch's operators are ONNX's own.

    Raises:
        UsageError: There are *custom_ops*.
        TrainingError: There is no finished run, or its files are damaged.
        ExportError: torch cannot export the model.
    """
    if custom_ops:
        raise UsageError(f"{path} is a training run, which needs no operators of its own; leave --custom-ops out")
    trained = load_run(path)
    model, record = trained.model, trained.record

    def reference(batch: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            return [np.asarray(model(torch.from_numpy(batch)).numpy())]

    return ImportedModel(
        graph=export(model, record.image_size),
        reference=reference,
        framework=record.framework,
        source_sha256=record.best_sha256 or "",
        task="classification",
        labels=record.labels,
        preprocess=record.preprocess.model_copy(update={"embedded": False}),
        dataset=f"{record.train.uri} (fingerprint {record.train.fingerprint[:16]}, {record.train.rows} images)",
        git=record.git,
        data=lambda: _data(record),
    )


def _data(record: RunRecord) -> tuple[Dataset, Dataset]:
    """Open what the run learned from and was judged by.

    Raises:
        DatasetError: It is not there, or not what it was: rows held out now may have been learned from then.
    """
    config = record.config
    opened = open_with_held_out(
        config["data"],
        config["validation"],
        seed=config["seed"],
        image_column=config["image_column"],
        label_column=config["label_column"],
    )
    for dataset, recorded in zip(opened, (record.train, record.held_out), strict=True):
        if dataset.fingerprint != recorded.fingerprint:
            raise DatasetError(
                f"dataset {dataset.uri} has changed since the training; give --calibration and --evaluation"
            )
    return opened
