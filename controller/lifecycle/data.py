"""Which images calibrate the variants of an import, and which judge them.

Rules:
    * What was asked for counts; otherwise the source's own data, if it knows them and they are still the same.
    * Only classes can be judged: labelled boxes, masks and keypoints have no format here yet. The pictures of a
      dataset serve all the same, for the golden file and to look at a model's answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controller.lifecycle.graph import precision_of
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.reference import FP32
from controller.lifecycle.request import ImportRequest
from runtime.datasets import Dataset, open_dataset
from runtime.errors import DatasetError, UsageError
from runtime.manifest import Preprocess, Task

__all__ = ["ImportData", "find_data"]

DEFAULT_PRECISIONS = (FP32, "int8")
JUDGED: Task = "classification"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportData:
    """The data of an import.

    Attributes:
        calibration: To quantize with, if there is some.
        evaluation: Labelled, to measure accuracy on, if there is some and the task can be measured.
        pictures: Real ones, for the golden file, if there are any.
        precisions: To build beside fp32.
        notes: What is not done, and why.
    """

    calibration: Dataset | None
    evaluation: Dataset | None
    pictures: Dataset | None
    precisions: tuple[str, ...]
    notes: tuple[str, ...]

    def for_preprocess(self, preprocess: Preprocess) -> ImportData:
        """Return this data as far as it suits *preprocess*: pictures that stay as large as they are make no batches.

        Raises:
            UsageError: A variant needs batches to be calibrated.
        """
        if preprocess.resize is not None or preprocess.crop is not None:
            return self
        if self.precisions:
            raise UsageError(
                f"precision {', '.join(self.precisions)} needs pictures of one size to calibrate with; give "
                "--preprocess FILE with resize or crop, or --precision fp32"
            )
        return replace(self, pictures=None)


def find_data(request: ImportRequest, imported: ImportedModel, task: Task) -> ImportData:
    """Open the data that *request* names, or that *imported* knows.

    Raises:
        DatasetError: One cannot be read.
        UsageError: A precision was asked for that nothing can judge.
    """
    notes: list[str] = []
    calibration, evaluation = None, None
    if not (request.calibration and request.evaluation):
        calibration, evaluation = _own_data(imported, notes)
    if request.evaluation:
        evaluation = _open(request, request.evaluation)
    if request.calibration and (evaluation is not None or task != JUDGED):
        calibration = _open(request, request.calibration)
    elif request.calibration:
        calibration, evaluation = open_with_held_out(
            request.calibration, image_column=request.image_column, label_column=request.label_column
        )
    pictures = calibration or evaluation
    if task != JUDGED:
        evaluation = None
        notes.append(f"accuracy was not measured: {_no_labels(task)}")
    elif evaluation is None:
        notes.append("accuracy was not measured: no --evaluation")
    own = precision_of(imported.graph)
    alone = f"the source is in {own} already" if own != FP32 else _no_labels(task) if task != JUDGED else None
    precisions = _precisions(request.precisions, alone, calibration, evaluation, notes)
    return ImportData(
        calibration=calibration,
        evaluation=evaluation,
        pictures=pictures,
        precisions=precisions,
        notes=tuple(notes),
    )


def _no_labels(task: Task) -> str:
    return f"there is no format of labels for {task} yet to judge by"


def _open(request: ImportRequest, uri: str) -> Dataset:
    return open_dataset(uri, image_column=request.image_column, label_column=request.label_column)


def _own_data(imported: ImportedModel, notes: list[str]) -> tuple[Dataset, Dataset] | tuple[None, None]:
    if imported.data is not None:
        try:
            return imported.data()
        except DatasetError as error:
            notes.append(f"the source's own data is not used: {error}")
    return None, None


def _precisions(
    wanted: tuple[str, ...] | None,
    alone: str | None,
    calibration: Dataset | None,
    evaluation: Dataset | None,
    notes: list[str],
) -> tuple[str, ...]:
    """Return the precisions to build beside the source's own.

    Args:
        wanted: As asked for.
        alone: Why there can be no others, if so.
        calibration: To build them with.
        evaluation: To judge them by.
        notes: Takes what is not built, and why.

    Raises:
        UsageError: One was asked for that cannot be built or judged.
    """
    why_none = alone or ("no --calibration" if calibration is None else None)
    if wanted is None and why_none is not None:
        notes.append(f"no int8 variant was built: {why_none}")
        return ()
    others = tuple(dict.fromkeys(p for p in (DEFAULT_PRECISIONS if wanted is None else wanted) if p != FP32))
    if others and alone:
        raise UsageError(f"precision {', '.join(others)} cannot be built: {alone}; leave --precision out")
    if others and evaluation is None:
        raise UsageError(f"precision {', '.join(others)} must be judged on labelled images: give --evaluation URI")
    return others
