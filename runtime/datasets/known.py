"""What is known of images, as columns of Parquet in Hugging Face's layout: classes, objects, masks.

Rules:
    * A column's type says what it holds: integers are classes, a struct with ``bbox`` objects, images masks.
    * What is written reads back as the same `Row`: boxes in 64 bits as ``x, y, width, height``, outlines as they were
      given, polygons in ``segmentation`` and run lengths in ``rle``, as COCO compresses them.
    * The size of the picture that objects were drawn on is in the columns ``width`` and ``height``, where it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from runtime.datasets.base import Row
from runtime.datasets.objects import Objects
from runtime.errors import DatasetError

__all__ = ["IMAGE", "IMAGE_FEATURE", "KNOWN", "SIZE_COLUMNS", "Known", "holds_images", "image_bytes", "with_size"]

SIZE_COLUMNS = ("height", "width")
IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
IMAGE_FEATURE = {"_type": "Image"}
OBJECTS = pa.list_(
    pa.struct(
        [
            ("bbox", pa.list_(pa.float64(), 4)),
            ("category", pa.int64()),
            ("area", pa.float64()),
            ("iscrowd", pa.int8()),
            ("segmentation", pa.list_(pa.list_(pa.float64()))),
            ("rle", pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.string())])),
            ("keypoints", pa.list_(pa.float64())),
        ]
    )
)


def holds_images(kind: Any) -> bool:
    """Whether a column of the Arrow type *kind* can hold images: binary, or a struct with one ``bytes``."""
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return names.count("bytes") == 1 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def image_bytes(value: Any) -> bytes | None:
    """Return the bytes in one cell (as Python object) of an image column."""
    return value.get("bytes") if isinstance(value, dict) else value


def _holds_objects(kind: Any) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind)) and {"bbox", "category"} <= {field.name for field in kind}


def with_size(objects: Objects | None, size: Sequence[Any]) -> Objects | None:
    """Return *objects* with the *size* (height, width) that they were drawn on, if both numbers are there."""
    if objects is None or len(size) != len(SIZE_COLUMNS) or None in size:
        return objects
    return replace(objects, size=(int(size[0]), int(size[1])))


def _objects_cell(objects: Objects) -> list[dict[str, Any]]:
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    written = np.concatenate([objects.boxes[:, :2], sides], axis=1)
    return [
        {
            "bbox": written[number].tolist(),
            "category": int(objects.labels[number]),
            "area": float(objects.areas[number]),
            "iscrowd": int(objects.crowd[number]),
            "keypoints": None if objects.keypoints is None else objects.keypoints[number].ravel().tolist(),
            **_outline_fields(objects.outlines[number] if objects.outlines else None),
        }
        for number in range(len(objects))
    ]


def _outline_fields(outline: Any) -> dict[str, Any]:
    """Return *outline* as the two fields that it may stand in.

    Raises:
        DatasetError: It is no list of polygons and no run lengths.
    """
    try:
        if not isinstance(outline, Mapping):
            polygons = [list(map(float, polygon)) for polygon in outline] if outline else None
            return {"segmentation": polygons, "rle": None}
        counts = outline["counts"]
        text = counts if isinstance(counts, str) else counts.decode() if isinstance(counts, bytes) else _packed(counts)
        return {"segmentation": None, "rle": {"size": list(map(int, outline["size"])), "counts": text}}
    except (KeyError, TypeError, ValueError, UnicodeDecodeError):
        found = str(outline)[:80]
        raise DatasetError(f"an outline is no list of polygons and no run lengths: {found}") from None


def _packed(counts: Sequence[int]) -> str:
    """Return run lengths as COCO compresses them: `rleToString` of pycocotools' maskApi.c."""
    text = []
    for place, count in enumerate(counts):
        left = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            low, left = left & 0x1F, left >> 5
            more = left != (-1 if low & 0x10 else 0)
            text.append(chr(48 + (low | 0x20 if more else low)))
    return "".join(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One kind of what may be known of an image.

    Attributes:
        fits: Whether a column of an Arrow type holds it.
        read: Of a cell (as Python object), and where it is, in words: the fields of `Row`.
        kind: The Arrow type in which it is written.
        feature: Of the names of classes, if there are some: what Hugging Face's metadata says of the column.
        cell: What is written of a row; ``None`` if the row does not know it.
    """

    fits: Callable[[Any], bool]
    read: Callable[[Any, str], Mapping[str, Any]]
    kind: Any
    feature: Callable[[tuple[str, ...] | None], Any]
    cell: Callable[[Row], Any]


def _value(dtype: str) -> dict[str, Any]:
    return {"_type": "Value", "dtype": dtype}


def _list(feature: Any, length: int = -1) -> dict[str, Any]:
    return {"_type": "List", "feature": feature, "length": length}


def _class(names: tuple[str, ...] | None) -> dict[str, Any]:
    return {"_type": "ClassLabel", "names": list(names)} if names else _value("int64")


def _objects_feature(names: tuple[str, ...] | None) -> dict[str, Any]:
    return _list(
        {
            "bbox": _list(_value("float64"), 4),
            "category": _class(names),
            "area": _value("float64"),
            "iscrowd": _value("int8"),
            "segmentation": _list(_list(_value("float64"))),
            "rle": {"size": _list(_value("int32"), 2), "counts": _value("string")},
            "keypoints": _list(_value("float64")),
        }
    )


KNOWN: Mapping[str, Known] = {
    "label": Known(
        fits=lambda kind: bool(pa.types.is_integer(kind)),
        read=lambda cell, _: {"label": cell},
        kind=pa.int64(),
        feature=_class,
        cell=lambda row: row.label,
    ),
    "objects": Known(
        fits=_holds_objects,
        read=lambda cell, where: {"label": None, "objects": Objects.of_cell(cell, where)},
        kind=OBJECTS,
        feature=_objects_feature,
        cell=lambda row: None if row.objects is None else _objects_cell(row.objects),
    ),
    "mask": Known(
        fits=holds_images,
        read=lambda cell, _: {"label": None, "mask": image_bytes(cell)},
        kind=IMAGE,
        feature=lambda _: IMAGE_FEATURE,
        cell=lambda row: None if row.mask is None else {"bytes": row.mask, "path": None},
    ),
}
"""By the name of the column that it is written to."""
