"""A prediction as a plain record: what `vedette predict --json`, the agent's results and batch columns say of it.

Rules:
    * One row of `RECORDS` a kind of result; the names are those of DESIGN.md, section 4.
    * A record holds numbers, text, lists, dicts, and masks as the bytes of a PNG; `as_json` makes base64 text of those.
    * Equal predictions have equal records, to the byte (of one version of Pillow).
    * `prediction_of` undoes `record_of`: what was written is a prediction again.

The PNGs: a class mask has a palette whose index is the class, or is 16-bit grayscale where a class is beyond 255; the
mask of an instance is 1-bit, white where the object is; a matte is 8-bit grayscale.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.palette import mask_palette
from runtime.tasks.results import (
    Classification,
    ClassPixels,
    Detection,
    Detections,
    Embedding,
    Instance,
    Instances,
    Keypoint,
    LabelScore,
    Matte,
    Pose,
    Poses,
    Prediction,
    Segmentation,
)

__all__ = ["READ_BACK", "RECORDS", "as_json", "class_mask_png", "prediction_of", "record_of"]

Record = dict[str, Any]


def _plain(value: Any) -> Any:
    """Return *value* with dicts for dataclasses and lists for tuples; `asdict` copies what is in them, at ten times."""
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return {name: _plain(getattr(value, name)) for name in fields}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def class_mask_png(mask: npt.NDArray[np.unsignedinteger]) -> bytes:
    """Return *mask*, uint8 or uint16 (H, W), as a PNG: with a palette whose index is the class, or 16-bit grayscale."""
    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette(mask_palette())
    return _png(image)


def _instance(instance: Instance) -> Record:
    named = (name for name in Instance.__dataclass_fields__ if name != "mask")
    return {name: getattr(instance, name) for name in named} | {"mask": _png(Image.fromarray(instance.mask))}


def _segmentation(prediction: Segmentation) -> Record:
    return {"mask": class_mask_png(prediction.mask), "classes": _plain(prediction.classes)}


RECORDS: Mapping[type[Prediction], Callable[[Any], Record]] = {
    Classification: _plain,
    Detections: _plain,
    Instances: lambda prediction: {"instances": [_instance(one) for one in prediction.instances]},
    Segmentation: _segmentation,
    Matte: lambda prediction: {"mask": _png(Image.fromarray(prediction.mask)), "coverage": prediction.coverage},
    Poses: _plain,
    Embedding: lambda prediction: {"embedding": prediction.embedding.tolist()},
}
"""By kind of result."""


def record_of(prediction: Prediction) -> Record:
    """Return *prediction* as a plain record; a mask is the bytes of a PNG."""
    return RECORDS[type(prediction)](prediction)


def _pixels(png: bytes) -> npt.NDArray[Any]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def _pose(record: Record) -> Pose:
    return Pose(**{**record, "keypoints": tuple(Keypoint(**point) for point in record["keypoints"])})


READ_BACK: Mapping[type[Prediction], Callable[[Record], Prediction]] = {
    Classification: lambda r: Classification(**{**r, "top_k": tuple(LabelScore(**one) for one in r["top_k"])}),
    Detections: lambda r: Detections(tuple(Detection(**one) for one in r["detections"])),
    Instances: lambda r: Instances(tuple(Instance(**{**one, "mask": _pixels(one["mask"])}) for one in r["instances"])),
    Segmentation: lambda r: Segmentation(_pixels(r["mask"]), tuple(ClassPixels(**one) for one in r["classes"])),
    Matte: lambda r: Matte(_pixels(r["mask"]), r["coverage"]),
    Poses: lambda r: Poses(tuple(map(_pose, r["poses"]))),
    Embedding: lambda r: Embedding(np.asarray(r["embedding"], np.float32)),
}
"""By kind of result: from a record."""


def prediction_of(kind: type[Prediction], record: Record) -> Prediction:
    """Return the prediction of *kind* whose record is *record*.

    Raises:
        KeyError: The record is of another kind.
    """
    return READ_BACK[kind](record)


def as_json(record: Any) -> Any:
    """Return *record* as JSON can hold it: bytes become base64 text."""
    match record:
        case bytes():
            return base64.b64encode(record).decode("ascii")
        case dict():
            return {key: as_json(value) for key, value in record.items()}
        case list():
            return [as_json(value) for value in record]
        case _:
            return record
