"""What a detection head reads: outputs found by role, and the names of the classes.

Rules:
    * What does not fit is refused by a text that names the output, its type and shape, what was expected, and
      the number of labels.
    * Boxes and scores are floating point, and computed in float32 or float64 whatever the graph gives (a
      float16 overflows). Integers of a quantized graph are refused: nothing says what they stand for.
    * A manifest without labels calls its classes ``class_0``, ``class_1``, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest, Postprocess
from runtime.placement import Placement
from runtime.tasks.base import Outputs
from runtime.tasks.detection.candidates import Candidates, Objects
from runtime.tasks.outputs import describe_outputs, find_output
from runtime.tasks.results import Detection, Detections

__all__ = ["Array", "Floats", "Given", "Read", "is_float"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def is_float(array: Array) -> bool:
    """Whether *array* holds floating-point numbers."""
    return bool(np.issubdtype(array.dtype, np.floating))


@dataclass(frozen=True, slots=True)
class Given:
    """The outputs of one run, with what they are about.

    Attributes:
        outputs: Of the graph, by name.
        sizes: (height, width) of the upright originals; as many as the batch has images.
        manifest: Labels, preprocessing and postprocessing.
    """

    outputs: Outputs
    sizes: Sequence[tuple[int, int]]
    manifest: Manifest

    @property
    def post(self) -> Postprocess:
        """How the manifest says that outputs become predictions."""
        return self.manifest.postprocess

    def placement(self, index: int) -> Placement:
        """Return where image *index* of the batch lies in the model's input."""
        return Placement.of(self.manifest.preprocess, *self.sizes[index])

    def find(self, role: str, fits: Callable[[Array], bool], expected: str) -> str:
        """Return the name of the output that plays *role*; one that the manifest gives another role does not.

        Args:
            role: A key of ``postprocess.outputs``.
            fits: Whether an output has the type and shape that the role has.
            expected: That type and shape in words.

        Raises:
            ModelError: None fits, or the one that the manifest names is not there or does not fit.
        """
        others = {name for other, name in self.post.outputs.items() if other != role}
        free = {name: array for name, array in self.outputs.items() if name not in others}
        return find_output(free, self.manifest, role, fits, f"{expected}; {self._labels()}")[0]

    def find_if_any(self, role: str, fits: Callable[[Array], bool], expected: str) -> str | None:
        """Return what `find` does, ``None`` where the manifest names no output for *role*, and none fits."""
        if role in self.post.outputs or self.fitting(fits):
            return self.find(role, fits, expected)
        return None

    def fitting(self, fits: Callable[[Array], bool]) -> list[str]:
        """Return the names of the outputs without a role in the manifest that fit."""
        mapped = set(self.post.outputs.values())
        return [name for name, array in self.outputs.items() if name not in mapped and fits(array)]

    def check_clear(self, roles: tuple[str, str], fits: Callable[[Array], bool]) -> None:
        """Check that types and shapes tell the two *roles* apart, where the manifest does not say which is which.

        Args:
            roles: The first of which is looked for among what fits.
            fits: Whether an output may play the first of them.

        Raises:
            ModelError: Several outputs fit.
        """
        alike = [] if any(role in self.post.outputs for role in roles) else self.fitting(fits)
        if len(alike) > 1:
            found = describe_outputs({name: self.outputs[name] for name in alike})
            raise ModelError(
                f"{self.manifest.reference}: {found} may each be {roles[0]!r} or {roles[1]!r} of a {self.post.kind} "
                "head; say in postprocess.outputs which is which"
            )

    def refused(self, name: str, expected: str) -> ModelError:
        """Return the error that says that output *name* is not what was *expected*."""
        found = describe_outputs({name: self.outputs[name]})
        return ModelError(f"{self.manifest.reference}: output {found}; expected {expected}; {self._labels()}")

    def class_ids(self, name: str, columns: int) -> Ids:
        """Return the label id of each of *columns* class scores, -1 where the class means "nothing here".

        ``none_label`` is a column. The manifest's labels may have a name for it, or leave it out: then the
        columns behind it move up by one.

        Raises:
            ModelError: There are not as many columns as labels.
        """
        labels, none = len(self.manifest.labels), self.post.none_label
        unnamed = none is not None and labels == columns - 1
        if columns < 1 or (labels and labels != columns and not unnamed) or (none is not None and none >= columns):
            extra = "" if none is None else f", of which number {none} may have no label"
            raise self.refused(name, f"one column a label{extra}; it has {columns} for classes")
        ids = np.arange(columns, dtype=np.int64)
        if none is not None:
            ids[none:] -= int(unnamed)
            ids[none] = -1
        return ids

    def check_labels(self, label_ids: Ids) -> None:
        """Check that the manifest has a name for every one of *label_ids*.

        Raises:
            ModelError: It has labels, and not so many.
        """
        labels = len(self.manifest.labels)
        if labels and len(label_ids) and label_ids.max() >= labels:
            raise ModelError(
                f"{self.manifest.reference}: the graph gives label {label_ids.max()}, counted from 0; "
                f"the manifest has {labels} labels"
            )

    def label(self, label_id: int) -> str:
        """Return the name of class *label_id*."""
        return self.manifest.labels[label_id] if self.manifest.labels else f"class_{label_id}"

    def detections(self, found: Candidates) -> Detections:
        """Return *found*, in pixels of the original and surest first, as a result."""
        return Detections(
            tuple(
                Detection(label_id, self.label(label_id), score, *box)
                for label_id, score, box in zip(
                    found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
                )
            )
        )

    def _labels(self) -> str:
        return f"the head is {self.post.kind}, the manifest has {len(self.manifest.labels) or 'no'} labels"


Read = Callable[[Given, Sequence[int]], Objects]
"""(outputs, how many columns may be behind box, score and label, likeliest first; none: any number) -> the objects."""
