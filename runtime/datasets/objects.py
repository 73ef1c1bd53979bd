"""What a dataset says of the objects in a picture: boxes, outlines and keypoints, in COCO's way of writing.

Rules:
    * Boxes are written ``x, y, width, height`` and kept as ``x1, y1, x2, y2``, in pixels of the upright original.
    * Hugging Face's column is a struct of lists, or a list of structs; of its fields ``bbox`` and ``category`` are
      needed, ``iscrowd``, ``area``, ``segmentation`` and ``keypoints`` are used where they are there. Run lengths may
      stand in a field of their own, ``rle``, since a column has one type.
    * What an object is called is left to `Dataset.label_names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from runtime.errors import DatasetError

__all__ = ["Objects"]

NEEDED = ("bbox", "category")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objects:
    """The labelled objects of one picture, n of them.

    Attributes:
        boxes: float64, (n, 4): x1, y1, x2, y2 in pixels of the upright original.
        labels: int64, (n,): index into the names of the dataset, or the dataset's own id where it has no names.
        crowd: bool, (n,): a box around many, which is neither asked for nor held against who finds it.
        areas: float64, (n,): pixels that belong to the object; of the box, where nothing else is known.
        outlines: As COCO writes them, polygons or run lengths, one an object; ``None`` if there are none.
        keypoints: float64, (n, K, 3): x, y and 0 (not labelled), 1 (hidden) or 2 (seen); ``None`` if there are none.
        size: (height, width) of the picture that they were drawn on, if the dataset says.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    outlines: tuple[Any, ...] | None = None
    keypoints: npt.NDArray[np.float64] | None = None
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def labelled(self, labels: npt.NDArray[np.int64]) -> Self:
        """Return them with other *labels*, (n,)."""
        return replace(self, labels=labels)

    @classmethod
    def parse(cls, records: Sequence[Mapping[str, Any]], where: str, size: tuple[int, int] | None = None) -> Self:
        """Return the objects that *records* describe, each with COCO's fields and its index as ``category``.

        Raises:
            DatasetError: One lacks a box or a category, a box is not four numbers, or they have different keypoints.
        """
        for record in records:
            if missing := [name for name in NEEDED if record.get(name) is None]:
                found = ", ".join(record) or "nothing"
                raise DatasetError(f"{where}: an object has no {' and no '.join(missing)}; it has {found}")
        written = _numbers([record["bbox"] for record in records], 4, f"{where}: bbox")
        areas = [record.get("area") for record in records]
        boxes = np.concatenate([written[:, :2], written[:, :2] + written[:, 2:]], axis=1)
        return cls(
            boxes=boxes,
            labels=np.array([int(record["category"]) for record in records], np.int64),
            crowd=np.array([bool(record.get("iscrowd")) for record in records], np.bool_),
            areas=np.array(
                [box[2] * box[3] if area is None else area for area, box in zip(areas, written, strict=True)],
                np.float64,
            ),
            outlines=_outlines(records),
            keypoints=_keypoints(records, where),
            size=size,
        )

    @classmethod
    def of_cell(cls, cell: Any, where: str) -> Self | None:
        """Return the objects in one *cell* (as Python object) of Hugging Face's column; ``None`` for null.

        Raises:
            DatasetError: As `parse`, or its lists are of different lengths.
        """
        if cell is None:
            return None
        if isinstance(cell, Mapping):
            fields = {name: values for name, values in cell.items() if values is not None}
            lengths = {name: len(values) for name, values in fields.items()}
            if len(set(lengths.values())) > 1:
                raise DatasetError(f"{where}: the objects' lists have different lengths: {lengths}")
            cell = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]
        return cls.parse(cell, where)


def _numbers(values: Sequence[Any], columns: int, where: str) -> npt.NDArray[np.float64]:
    try:
        numbers = np.array(values, np.float64).reshape(len(values), -1 if values else columns)
    except (TypeError, ValueError):
        raise DatasetError(f"{where} is not {columns} numbers for each object: found {str(values)[:80]}") from None
    if numbers.shape[1] != columns or not np.isfinite(numbers).all():
        raise DatasetError(f"{where} is not {columns} finite numbers for each object: found {str(values)[:80]}")
    return numbers


def _outlines(records: Sequence[Mapping[str, Any]]) -> tuple[Any, ...] | None:
    found = tuple(record.get("segmentation") or record.get("rle") for record in records)
    return found if any(found) else None


def _keypoints(records: Sequence[Mapping[str, Any]], where: str) -> npt.NDArray[np.float64] | None:
    """Return (n, K, 3); an object without any gets K that are not labelled."""
    found = [np.asarray(record.get("keypoints") or (), np.float64).reshape(-1) for record in records]
    lengths = {len(one) for one in found if len(one)}
    if not lengths:
        return None
    if len(lengths) > 1 or (length := lengths.pop()) % 3:
        raise DatasetError(f"{where}: keypoints are not x, y, visibility of the same number of points for every object")
    return np.stack([one if len(one) else np.zeros(length) for one in found]).reshape(len(found), -1, 3)
