"""What is asked of an import, checked as far as it can be without the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from controller.lifecycle.importers.source import Job
from controller.lifecycle.preparation.fitting import size_after
from controller.lifecycle.variants.kinds import requested
from runtime.errors import UsageError
from runtime.hardware import this_machine
from runtime.manifest import MODEL_NAME, Postprocess, Preprocess, Task
from runtime.tasks import HEADS

__all__ = ["ImportRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What was asked of an import; ``None`` means: found out, or not at all where nothing says.

    Attributes:
        source: As `controller.lifecycle.importers.IMPORTERS` lists them.
        name: Of the model.
        weights: File with the weights for what a factory makes.
        classes: Number of classes for a factory.
        image_size: (height, width) of the pictures that a source takes which does not say, pixels.
        importer_python: Interpreter that has the source's framework.
        oldest_ort: Interpreter that has the oldest ONNX Runtime that the model is to run on.
        task: One of the five.
        head: A key of `runtime.tasks.HEADS`; it says the task, too.
        labels: File with the names of the classes.
        keypoints: File with the names of the keypoints.
        preprocess: A preset's name, or a JSON file.
        activation: Of the scores.
        score_threshold: Least score of an answer, 0 to 1.
        iou_threshold: Of the suppression of boxes, 0 to 1.
        multi_label: Every class at or above the threshold is an answer.
        custom_ops: A library of operators that ONNX Runtime does not have.
        calibration: Dataset to calibrate with.
        evaluation: Labelled dataset to measure accuracy on.
        trust_pickle: A person vouches for *source*, though reading it runs the code in it.
        precisions: Variants to build: ids, ``int8`` (this machine's), ``all``, and ``fp32``.
        max_drop: Percentage points of the primary figure that a variant may lose.
        optimize: Make the graph smaller where that changes no answer.
        image_column: Of Parquet datasets.
        label_column: Of Parquet datasets.
    """

    source: str
    name: str
    weights: Path | None = None
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    importer_python: Path | None = None
    oldest_ort: Path | None = None
    task: str | None = None
    head: str | None = None
    labels: Path | None = None
    keypoints: Path | None = None
    preprocess: str | None = None
    activation: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    multi_label: bool = False
    custom_ops: Path | None = None
    calibration: str | None = None
    evaluation: str | None = None
    trust_pickle: bool = False
    precisions: tuple[str, ...] | None = None
    max_drop: float = 0.5
    optimize: bool = True
    image_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no model name; expected lowercase letters, digits, '-' and '_', at most 63"
            )
        self._check_task()
        activations = get_args(Postprocess.model_fields["activation"].annotation)
        if self.activation not in {None, *activations}:
            raise UsageError(f"activation {self.activation!r} is not known; expected {', '.join(activations)}")
        if self.classes is not None and self.classes < 1:
            raise UsageError(f"--classes is {self.classes}; expected 1 or more")
        if self.image_size is not None and min(self.image_size) < 1:
            raise UsageError(f"--image-size is {self.image_size[0]}x{self.image_size[1]}; expected 1 pixel or more")
        if not self.max_drop >= 0:
            raise UsageError(f"--max-drop is {self.max_drop}; expected 0 or more percentage points")
        for option, value in (("--score-threshold", self.score_threshold), ("--iou-threshold", self.iou_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{option} is {value:g}; expected 0 to 1")
        if self.precisions is not None:
            requested(self.precisions, this_machine())

    def _check_task(self) -> None:
        tasks = get_args(Task)
        if self.task is not None and self.task not in tasks:
            raise UsageError(f"task {self.task!r} cannot be imported; expected {', '.join(tasks)}")
        if self.head is None:
            return
        if self.head not in HEADS:
            known = ", ".join(kind for kind, row in HEADS.items() if self.task in {None, row.task})
            raise UsageError(f"--head {self.head!r} is not known; expected {known}")
        if self.task is not None and HEADS[self.head].task != self.task:
            raise UsageError(f"--head {self.head} is for {HEADS[self.head].task}, --task says {self.task}")

    def decided_task(self, own: Task | None, foreign: str | None) -> Task:
        """Return the task: as asked for, or as the source itself says.

        Args:
            own: What the source says, if that is one of ours.
            foreign: What it says otherwise.

        Raises:
            UsageError: Nothing says, or the source says another one than was asked for.
        """
        if self.head is not None:
            return HEADS[self.head].task
        asked = next((task for task in get_args(Task) if task == self.task), None)
        if asked is not None and own not in {None, asked}:
            raise UsageError(
                f"{self.source} says itself that its task is {own}, --task says {asked}; leave --task out, or give "
                "--head"
            )
        decided: Task | None = asked or own
        if decided is None:
            said = f"; the file says {foreign!r}, which Vedette does not do" if foreign else ""
            raise UsageError(f"--task is needed for {self.source}: one of {', '.join(get_args(Task))}{said}")
        return decided

    def changed(self, postprocess: Postprocess) -> Postprocess:
        """Return *postprocess* with what was asked for.

        Raises:
            UsageError: A value is out of range.
        """
        activation = self.activation
        if activation is None and self.multi_label and postprocess.activation == "softmax":
            activation = "sigmoid"  # a softmax shares out one answer; several need a score of their own each
        asked = {
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "activation": activation,
            "multi_label": self.multi_label or None,
        }
        return postprocess.changed(**{name: value for name, value in asked.items() if value is not None})

    def job(self, preprocess: Preprocess | None) -> Job:
        """Return how the source is opened.

        Args:
            preprocess: What ``--preprocess`` means: it says the size and the colours, too.
        """
        height, width = size_after(preprocess) if preprocess is not None else (None, None)
        return Job(
            source=self.source,
            weights=self.weights,
            classes=self.classes,
            image_size=self.image_size,
            prepared_size=(height, width) if height is not None and width is not None else None,
            color=preprocess.color if preprocess is not None else "RGB",
            features=preprocess is not None and preprocess.features is not None,
            trusted=self.trust_pickle,
        )
