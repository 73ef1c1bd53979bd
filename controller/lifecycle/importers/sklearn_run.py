"""Opens a run that scikit-learn fitted: the estimator, as `vedette train` left it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from controller.lifecycle.importers.run import run_facts
from controller.lifecycle.importers.sklearn_model import ROUTES, SklearnSource, compares_labels
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.sklearn_learner import load_run

__all__ = ["open_run"]


def open_run(directory: Path, record: RunRecord) -> SklearnSource:
    """Open the run in *directory*.

    Raises:
        TrainingError: Its files are not the ones that it wrote.
    """
    estimator = load_run(directory)
    facts = replace(run_facts(record, ROUTES), compares_labels=compares_labels(estimator))
    channels = 1 if record.preprocess.color == "L" else 3
    picture = (record.image_size, record.image_size, channels) if record.preprocess.features is None else None
    return SklearnSource(estimator, picture, facts)
