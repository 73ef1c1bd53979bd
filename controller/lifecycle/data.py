"""Which images calibrate the variants of an import and which judge them, and so which variants are built.

Rules:
    * What was asked for counts; otherwise the source's own data, if it knows them and they are still the same.
    * A classifier is judged by rows held out of the calibration data where nothing else is named. For the other
      tasks --evaluation says what is judged by; pictures without boxes, masks or keypoints serve all the same, for the
      golden file and to look at a model's answers.
    * What cannot be judged is not built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from controller.lifecycle.graph import precision_of
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.request import ImportRequest
from controller.lifecycle.variants.kinds import ALL, VARIANTS, at_hand, requested
from controller.lifecycle.variants.reference import FP32
from controller.lifecycle.variants.weights import classical_operator
from runtime.datasets import Dataset, open_dataset
from runtime.errors import DatasetError, UsageError
from runtime.hardware import this_machine
from runtime.manifest import Preprocess, Task

__all__ = ["ImportData", "find_data"]

HELD_OUT: Task = "classification"
JUDGED_BY: Mapping[Task, str] = {
    "classification": "labels",
    "embedding": "labels",
    "detection": "boxes",
    "segmentation": "masks or outlines",
    "pose": "keypoints",
}
"""What must be known of the images for a task to be measured, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportData:
    """The data of an import.

    Attributes:
        calibration: To quantize with, if there is some.
        evaluation: Labelled, to measure accuracy on, if there is some and the task can be measured.
        pictures: Real ones, for the golden file, if there are any.
        variants: To build beside fp32, by id.
        notes: What is not done, and why.
    """

    calibration: Dataset | None
    evaluation: Dataset | None
    pictures: Dataset | None
    variants: tuple[str, ...]
    notes: tuple[str, ...]

    def for_preprocess(self, preprocess: Preprocess) -> ImportData:
        """Return this data as far as it suits *preprocess*: pictures that stay as large as they are make no batches.

        Raises:
            UsageError: A variant needs batches to be calibrated.
        """
        if preprocess.resize is not None or preprocess.crop is not None:
            return self
        if self.variants:
            raise UsageError(
                f"precision {', '.join(self.variants)} needs pictures of one size to calibrate with; give "
                "--preprocess FILE with resize or crop, or --precision fp32"
            )
        return replace(self, pictures=None)


def find_data(request: ImportRequest, imported: ImportedModel, task: Task) -> ImportData:
    """Open the data that *request* names, or that *imported* knows, and decide what is built with it.

    Raises:
        DatasetError: One cannot be read.
        UsageError: A variant was asked for that cannot be built, or that nothing can judge.
    """
    notes: list[str] = []
    calibration, evaluation = _opened(request, imported, task, notes)
    pictures = calibration or evaluation
    if evaluation is None:
        notes.append("accuracy was not measured: no --evaluation")
    elif not _says(evaluation, task):
        notes.append(f"accuracy was not measured: {evaluation.uri} has no {JUDGED_BY[task]}, which {task} is judged by")
        evaluation = None
    choice = _Choice(graph=imported.graph, calibrates=calibration is not None, judges=evaluation is not None)
    variants = choice.default(notes) if request.precisions is None else choice.asked(request.precisions, notes)
    same = calibration is not None and evaluation is not None and calibration.fingerprint == evaluation.fingerprint
    if same and any(VARIANTS[name].scheme is not None for name in variants):
        notes.append("the same images calibrate and judge: on others the figures of int8 may be lower")
    return ImportData(
        calibration=calibration,
        evaluation=evaluation,
        pictures=pictures,
        variants=variants,
        notes=tuple(notes),
    )


def _opened(
    request: ImportRequest, imported: ImportedModel, task: Task, notes: list[str]
) -> tuple[Dataset | None, Dataset | None]:
    """Return what calibrates and what judges."""
    calibration, evaluation = None, None
    if not (request.calibration and request.evaluation):
        calibration, evaluation = _own_data(imported, notes)
    if request.evaluation:
        evaluation = _open(request, request.evaluation)
    if request.calibration and (evaluation is not None or task != HELD_OUT):
        calibration = _open(request, request.calibration)
    elif request.calibration:
        calibration, evaluation = open_with_held_out(
            request.calibration, image_column=request.image_column, label_column=request.label_column
        )
    return calibration, evaluation


def _says(dataset: Dataset, task: Task) -> bool:
    """Whether the first row of *dataset* says what *task* is judged by; a classifier's data must."""
    row = next(dataset.rows(0, 1))
    known = {
        "classification": True,
        "embedding": row.label is not None,
        "detection": row.objects is not None,
        "segmentation": row.mask is not None or row.objects is not None,
        "pose": row.objects is not None and row.objects.keypoints is not None,
    }
    return known[task]


def _open(request: ImportRequest, uri: str) -> Dataset:
    return open_dataset(uri, image_column=request.image_column, label_column=request.label_column)


def _own_data(imported: ImportedModel, notes: list[str]) -> tuple[Dataset, Dataset] | tuple[None, None]:
    if imported.data is not None:
        try:
            return imported.data()
        except DatasetError as error:
            notes.append(f"the source's own data is not used: {error}")
    return None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """Which variants are built.

    Attributes:
        graph: Of the source.
        calibrates: Whether there are images to calibrate with.
        judges: Whether there are labelled ones.
    """

    graph: onnx.ModelProto
    calibrates: bool
    judges: bool

    def default(self, notes: list[str]) -> tuple[str, ...]:
        """Return what this machine can build and judge; *notes* takes why nothing is quantized."""
        uncalibrated = "" if self.calibrates else "no --calibration"
        unjudged = self._why_alone() or ("" if self.judges else uncalibrated or "nothing to judge it by")
        if why := unjudged or uncalibrated:
            notes.append(f"no int8 variant was built: {why}")
        machine = this_machine()
        suited = [name for name, kind in VARIANTS.items() if at_hand(kind, machine) and not kind.unsuited(self.graph)]
        built = tuple(name for name in suited if self.calibrates or VARIANTS[name].scheme is None)
        return () if unjudged else built

    def asked(self, words: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
        """Return what *words* mean; *notes* takes what does not suit the graph, of all.

        Raises:
            UsageError: One cannot be built, or not judged.
        """
        ids = requested(words, this_machine())
        unsuited = (
            {name: VARIANTS[name].unsuited(self.graph) for name in ids if name not in words} if ALL in words else {}
        )
        notes += [f"{name} was not built: {why}" for name, why in unsuited.items() if why]
        ids = tuple(name for name in ids if not unsuited.get(name))
        named = ", ".join(ids)
        if ids and (why := self._why_alone()):
            raise UsageError(f"precision {named} cannot be built: {why}; leave --precision out")
        if ids and not self.judges:
            raise UsageError(f"precision {named} must be judged on labelled images: give --evaluation URI")
        return ids

    def _why_alone(self) -> str:
        own, operator = precision_of(self.graph), classical_operator(self.graph)
        if operator:
            return f"what it computes is one {operator}, which has no other form"
        return "" if own == FP32 else f"the source is in {own} already"
