"""Opens a run that Flax trained: the best weights, in the model, as `vedette train` left them."""

from __future__ import annotations

from pathlib import Path

from controller.lifecycle.importers.jax_model import ROUTES, JaxSource, call_in_eval_mode
from controller.lifecycle.importers.run import run_facts
from controller.lifecycle.training.flax_learner import load_run
from controller.lifecycle.training.record import RunRecord

__all__ = ["open_run"]

COLOURS = 3  # channels that every architecture takes


def open_run(directory: Path, record: RunRecord) -> JaxSource:
    """Open the run in *directory*.

    Raises:
        TrainingError: Its files are not the ones that it wrote.
    """
    call, weights = call_in_eval_mode(load_run(directory))
    shape = (record.image_size, record.image_size, COLOURS)
    return JaxSource(call, weights, shape, run_facts(record, ROUTES), name=record.arch, outputs=("logits",))
