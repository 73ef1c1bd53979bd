"""From a source that a child process holds open to the model that the pipeline takes.

Rules:
    * What the child says of itself is checked like any other input: task and preprocessing are ours or refused.
    * The data of a training run is opened here, where datasets are read, and only if it is what it was then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from controller.errors import ExportError
from controller.lifecycle.gate.diagnosis import Evidence, explained
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.importers.base import ImportedModel, convert_by_first
from controller.lifecycle.importers.child import Child
from controller.lifecycle.importers.source import Job
from runtime.datasets import Dataset
from runtime.errors import DatasetError
from runtime.manifest import Preprocess, Task, describe_validation

if TYPE_CHECKING:
    import onnx

    from controller.lifecycle.importers import Importer

__all__ = ["load_hosted"]


def load_hosted(importer: Importer, job: Job, python: Path | None = None) -> ImportedModel:
    """Open the source that *job* names in a child process, and convert it.

    Args:
        importer: The row that knows it.
        job: What to open, and how.
        python: Interpreter of the child; ``None``: as the environment says, or ours.

    Raises:
        VedetteError: It cannot be opened, or no route to ONNX leads anywhere.
    """
    child = Child(job.source, importer.needs, python, ours=importer.ours)
    try:
        return _imported(child, importer.module, job)
    except BaseException:
        child.close()
        raise


def _imported(child: Child, module: str, job: Job) -> ImportedModel:
    facts = child.open(module, job)
    refused: dict[str, str] = {}

    def convert(route: str) -> onnx.ModelProto:
        try:
            return child.convert(route)
        except ExportError as error:
            raise ExportError(explained(str(error), Evidence(error=str(error)))) from None

    graph, route, left = convert_by_first(convert, facts.routes, refused)
    known = facts.data
    return ImportedModel(
        graph=graph,
        reference=child.run,
        values=child.values,
        framework=facts.framework,
        source_sha256=facts.source_sha256,
        task=_task(job.source, facts.task),
        labels=facts.labels,
        preprocess=_preprocess(job.source, facts.preprocess),
        dataset=facts.dataset,
        git=facts.git,
        data=None if known is None else lambda: _recorded(known),
        metadata=facts.metadata,
        compares_labels=facts.compares_labels,
        notes=facts.warnings,
        route=route,
        refused=refused,
        routes=left,
        convert=convert,
        close=child.close,
    )


def _task(source: str, said: str | None) -> Task | None:
    if said is None:
        return None
    known: Mapping[str, Task] = {task: task for task in get_args(Task)}
    if said not in known:
        raise ExportError(f"{source} says that its task is {said!r}; expected one of {', '.join(known)}")
    return known[said]


def _preprocess(source: str, said: Mapping[str, Any] | None) -> Preprocess | None:
    if said is None:
        return None
    try:
        return Preprocess.model_validate(said)
    except ValidationError as error:
        raise ExportError(
            f"{source} says how its pictures are prepared in a way that is not ours: {describe_validation(error)}"
        ) from None


def _recorded(data: Mapping[str, Any]) -> tuple[Dataset, Dataset]:
    """Open what a training run learned from and was judged by.

    Args:
        data: ``arguments`` of `open_with_held_out`, and the ``fingerprints`` of what that gave then.

    Raises:
        DatasetError: It is not there, or not what it was: rows held out now may have been learned from then.
    """
    opened = open_with_held_out(**data["arguments"])
    for dataset, fingerprint in zip(opened, data["fingerprints"], strict=True):
        if dataset.fingerprint != fingerprint:
            raise DatasetError(
                f"dataset {dataset.uri} has changed since the training; give --calibration and --evaluation"
            )
    return opened
