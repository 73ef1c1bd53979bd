"""Opens a run that Keras trained: the best weights, in the model, as `vedette train` left them."""

from __future__ import annotations

from pathlib import Path

from controller.lifecycle.importers.keras_model import ROUTE, hold
from controller.lifecycle.importers.run import run_facts
from controller.lifecycle.importers.source import Job
from controller.lifecycle.importers.torch_module import ModuleSource
from controller.lifecycle.training.keras_learner import load_run
from controller.lifecycle.training.record import RunRecord

__all__ = ["open_run"]


def open_run(directory: Path, record: RunRecord) -> ModuleSource:
    """Open the run in *directory*.

    Raises:
        TrainingError: Its files are not the ones that it wrote.
    """
    job = Job(source=str(directory), image_size=(record.image_size, record.image_size))
    return hold(load_run(directory), job, run_facts(record, (ROUTE,)))
