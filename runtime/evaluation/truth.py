"""What is true of a picture, in a model's own classes: one row of `READERS` a kind of truth.

Rules:
    * A row that lacks what the task needs is an error, and so is a class that the model does not have: either would
      make every figure wrong.
    * Boxes, outlines, keypoints and masks are in pixels of the upright original: what was drawn on a picture of another
      size (or of the same one before it was turned upright) is an error.
    * Where a mask is needed and outlines are given, they are painted, the largest first; the rest is background, or
      is not counted if the model has no such class.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from runtime.datasets import Objects, Row
from runtime.drawing import BACKGROUNDS
from runtime.errors import DatasetError
from runtime.evaluation.label_map import Labelled, LabelMap, ids_of
from runtime.evaluation.metrics.base import TruthKind
from runtime.evaluation.metrics.semantic import IGNORE
from runtime.evaluation.outlines import outline_mask
from runtime.manifest import Manifest, Task

__all__ = ["READERS", "Truths"]

MOST_NAMED = 20  # of what cannot be mapped
GRAY_MODES = ("1", "L", "P", "I", "I;16")  # of Pillow: one number a pixel

Size = tuple[int, int] | None
"""(height, width) of the upright picture; ``None`` if it is not known, and nothing is held against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truths:
    """Reads what is true of the pictures of a dataset.

    Attributes:
        dataset: The rows are of it.
        labels: Of the model.
        task: Of the model.
        background: The model's class of what is nothing else, -1 if it has none.
        classes: From the dataset's classes to the model's.
    """

    dataset: Labelled
    labels: tuple[str, ...]
    task: Task
    background: int
    classes: LabelMap

    @classmethod
    def of(cls, dataset: Labelled, manifest: Manifest) -> Truths:
        """Return that of *dataset* for the model of *manifest*."""
        labels = manifest.labels
        if manifest.task == "segmentation" and len(labels) == 1:
            labels = ("background", *labels)
        found = [number for number, label in enumerate(labels) if label.strip().lower() in BACKGROUNDS]
        none = manifest.postprocess.none_label
        background = none if none is not None else found[0] if found else -1
        classes = LabelMap.of(dataset, labels)
        return cls(dataset=dataset, labels=labels, task=manifest.task, background=background, classes=classes)

    def read(self, kind: TruthKind, row: Row, size: Size) -> Any:
        """Return what is true of *row*, of *kind*, whose picture has *size*.

        Raises:
            DatasetError: The row does not say it, or says what cannot be; or outlines are to be painted on a picture of
                unknown size.
        """
        return READERS[kind](self, row, size)

    def mapped(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the model's classes of the dataset's *ids* (n,).

        Raises:
            DatasetError: One has none; the text names all of the dataset that have none.
        """
        found = self.classes(ids)
        if (found < 0).any():
            everything = np.unique(np.fromiter(ids_of(self.dataset), np.int64))
            strange = [self.classes.name(int(one)) for one in everything[self.classes(everything) < 0]]
            names = ", ".join([*strange[:MOST_NAMED], *["..."][: len(strange) > MOST_NAMED]])
            raise DatasetError(
                f"dataset {self.dataset.uri}: {len(strange)} of its classes are none of the model's: {names}; "
                f"the model's are {_some(self.labels)}"
            )
        return found

    def lacks(self, row: Row, what: str) -> DatasetError:
        """Return the error of a *row* without *what*."""
        return DatasetError(
            f"dataset {self.dataset.uri} has no {what} in row {row.source_row} of {row.source_file}; "
            "docs/evaluation.md says how labels are given"
        )


def _some(labels: tuple[str, ...]) -> str:
    named = ", ".join(labels[:3])
    return f"{named}, ... ({len(labels)})" if len(labels) > 3 else named or "without names"


def _label(truths: Truths, row: Row, _: Size) -> int:
    if row.label is None:
        raise truths.lacks(row, "label")
    if truths.task == "embedding":  # a label is whatever tells classes apart
        return row.label
    return int(truths.mapped(np.array([row.label], np.int64))[0])


def _objects(truths: Truths, row: Row, size: Size) -> Objects:
    objects = _placed(truths, row, size)
    return objects.labelled(truths.mapped(objects.labels))


def _placed(truths: Truths, row: Row, size: Size) -> Objects:
    """Return the objects of *row*, with the labels of the dataset, after a look at where they lie."""
    objects = row.objects
    if objects is None:
        raise truths.lacks(row, "objects")
    if size is None:
        return objects
    height, width = size
    where = f"dataset {truths.dataset.uri}, row {row.source_row} of {row.source_file}"
    if objects.size is not None and objects.size != size:
        drawn, upright = (f"{one[1]}x{one[0]}" for one in (objects.size, size))
        raise DatasetError(
            f"{where}: the objects were drawn on a picture of {drawn}, upright it has {upright}; boxes are expected in "
            "pixels of the upright picture"
        )
    outside = objects.boxes[:, 2:] > np.array([width, height]) + 1
    if outside.any():
        x1, y1, x2, y2 = objects.boxes[outside.any(axis=1)][0]
        raise DatasetError(
            f"{where}: the box {[float(x1), float(y1), float(x2 - x1), float(y2 - y1)]} reaches beyond the picture of "
            f"{width}x{height}; boxes are expected as x, y, width, height in pixels, not as corners"
        )
    return objects


def _with_outlines(truths: Truths, row: Row, size: Size) -> Objects:
    objects = _objects(truths, row, size)
    if len(objects) and (objects.outlines is None or not all(objects.outlines)):
        raise truths.lacks(row, "outline of every object")
    return objects


def _with_keypoints(truths: Truths, row: Row, size: Size) -> Objects:
    objects = _placed(truths, row, size)
    if len(objects) and objects.keypoints is None:
        raise truths.lacks(row, "keypoints")
    return objects


def _mask(truths: Truths, row: Row, size: Size) -> npt.NDArray[np.int64]:
    """Return the class of each pixel, int64 (H, W); `IGNORE` where it does not count."""
    if row.mask is None:
        return _painted(truths, row, size)
    mask = _gray(truths, row, size).astype(np.int64)
    strange = np.unique(mask[(mask != IGNORE) & ((mask < 0) | (mask >= len(truths.labels)))])
    if strange.size:
        raise DatasetError(
            f"dataset {truths.dataset.uri}: the mask of {row.source_file}, row {row.source_row}, has the classes "
            f"{', '.join(map(str, strange[:MOST_NAMED].tolist()))}; the model has {len(truths.labels)}, from 0, and "
            f"{IGNORE} is not counted"
        )
    return mask


def _gray(truths: Truths, row: Row, size: Size) -> npt.NDArray[Any]:
    """Return the numbers of the mask of *row*, (H, W)."""
    where = f"dataset {truths.dataset.uri}: the mask of {row.source_file}, row {row.source_row},"
    try:
        with Image.open(io.BytesIO(row.mask or b"")) as image:
            if image.mode not in GRAY_MODES:
                raise DatasetError(
                    f"{where} is a picture in {image.mode}; expected one number a pixel, the class: gray, or the index "
                    "of a palette"
                )
            mask = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise DatasetError(f"{where} is no readable image: {' '.join(str(error).split())}") from None
    if size is not None and mask.shape != size:
        found, expected = (f"{shape[1]}x{shape[0]}" for shape in (mask.shape, size))
        raise DatasetError(f"{where} is {found}; the upright picture is {expected}")
    return mask


def _known(truths: Truths, row: Row, size: Size) -> tuple[int, int]:
    if size is None:
        raise truths.lacks(row, "size of the picture that its outlines could be painted on")
    return size


def _painted(truths: Truths, row: Row, size: Size) -> npt.NDArray[np.int64]:
    objects = _with_outlines(truths, row, size)
    size = _known(truths, row, size)
    mask = np.full(size, truths.background if truths.background >= 0 else IGNORE, np.int64)
    for number in np.argsort(-objects.areas, kind="stable"):
        mask[outline_mask((objects.outlines or ())[number], size)] = objects.labels[number]
    return mask


def _matte(truths: Truths, row: Row, size: Size) -> npt.NDArray[np.uint8]:
    """Return how much each pixel is foreground, uint8 (H, W): a mask of 0 and 1 is one of 0 and 255."""
    if row.mask is None:
        objects = _placed(truths, row, size)
        if len(objects) and (objects.outlines is None or not all(objects.outlines)):
            raise truths.lacks(row, "outline of every object")
        size = _known(truths, row, size)
        whole = np.zeros(size, np.bool_)
        for outline in objects.outlines or ():
            whole |= outline_mask(outline, size)
        return whole.astype(np.uint8) * 255
    mask = _gray(truths, row, size)
    largest = int(mask.max(initial=0))
    if largest > 255:
        return np.asarray(mask >> 8, np.uint8)
    return np.asarray(mask, np.uint8) * np.uint8(255 if largest == 1 else 1)


READERS: Mapping[TruthKind, Callable[[Truths, Row, Size], Any]] = {
    "label": _label,
    "objects": _objects,
    "outlines": _with_outlines,
    "keypoints": _with_keypoints,
    "mask": _mask,
    "matte": _matte,
}
