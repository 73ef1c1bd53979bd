"""Opens a run that torch trained: the best weights, in the model, as `vedette train` left them."""

from __future__ import annotations

from pathlib import Path

from controller.lifecycle.importers.run import run_facts
from controller.lifecycle.importers.torch_module import ROUTES, ModuleSource, example_of
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.torch_learner import load_run

__all__ = ["open_run"]


def open_run(directory: Path, record: RunRecord) -> ModuleSource:
    """Open the run in *directory*.

    Raises:
        TrainingError: Its files are not the ones that it wrote.
    """
    trained = load_run(directory)
    example = example_of(record.preprocess.color, (record.image_size, record.image_size))
    return ModuleSource(trained.model, example, run_facts(record, tuple(ROUTES)), outputs=("logits",))
