"""Opens what `vedette train` left: a table says which framework's importer reads the run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from controller.lifecycle.importers.source import Job, Source, SourceFacts
from controller.lifecycle.training.frameworks import framework_of
from controller.lifecycle.training.record import PruningRecord, RunRecord
from controller.lifecycle.training.run import finished_run

__all__ = ["open_source", "run_facts"]


def open_source(job: Job) -> Source:
    """Open the run in the directory that *job* names.

    Raises:
        UsageError: The framework that trained it is not installed.
        TrainingError: There is no finished run, or its files are damaged.
    """
    directory = Path(job.source)
    record = finished_run(directory)
    source: Source = importlib.import_module(framework_of(record.trainer).importer).open_run(directory, record)
    return source


def run_facts(record: RunRecord, routes: tuple[str, ...]) -> SourceFacts:
    """Return what a finished run says of itself, whatever framework trained it.

    Args:
        record: Of the run.
        routes: From its framework to ONNX.
    """
    return SourceFacts(
        framework=record.framework,
        source_sha256=record.best_sha256 or "",
        routes=routes,
        task="classification",
        labels=record.labels,
        preprocess=record.preprocess.model_copy(update={"embedded": False}).model_dump(mode="json"),
        dataset=f"{record.train.uri} (fingerprint {record.train.fingerprint[:16]}, {record.train.rows} images)",
        git=record.git,
        data=_data(record),
        warnings=() if record.pruning is None else (_pruned(record.pruning),),
    )


def _pruned(pruning: PruningRecord) -> str:
    """Return how the model of a run was made smaller, in words."""
    if pruning.method == "unstructured":
        return f"the run was pruned: {pruning.ratio:.0%} of the weights are zero"
    return (
        f"the run was pruned: about {pruning.ratio:.0%} of the channels went, by {pruning.importance}, rounded to "
        f"{pruning.round_to}"
    )


def _data(record: RunRecord) -> dict[str, Any]:
    """Return what opens the data again, and how it is recognized."""
    config = record.config
    arguments = {name: config[name] for name in ("validation", "seed", "image_column", "label_column")}
    return {
        "arguments": {"uri": config["data"], **arguments},
        "fingerprints": [record.train.fingerprint, record.held_out.fingerprint],
    }
