"""A tiny real classifier whose right answer is known: which of red, green and blue an image has most of.

uint8 NHWC in -> float -> mean over the picture -> 3 scores, one a channel; labels red, green, blue.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from artifact_of import artifact_of
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runtime.artifact import Artifact
from runtime.manifest import Postprocess, Preprocess, Resize

LABELS = ("red", "green", "blue")
SIDE = 8


def _model(version: int) -> onnx.ModelProto:
    scale = numpy_helper.from_array(np.float32(version / 255), "scale")
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "color",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [scale, axes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_artifact(root: Path, version: int = 1) -> Artifact:
    """Write the classifier as an artifact into the new directory *root*."""
    root.mkdir(parents=True)
    model = root / "model.fp32.onnx"
    onnx.save(_model(version), model)
    return color_artifact({"fp32": model}, root, name="color", version=version)


def color_artifact(models: Mapping[str, Path], root: Path, **fields: Any) -> Artifact:
    """Write *models*, by variant id, as an artifact into *root*: each takes pictures and scores colors as this one."""
    return artifact_of(
        models,
        root,
        Preprocess(resize=Resize(mode="exact", size=(SIDE, SIDE)), embedded=True),
        Postprocess(kind="classification", top_k=2),
        golden_input=np.arange(2 * SIDE * SIDE * 3, dtype=np.uint8).reshape(2, SIDE, SIDE, 3),
        opset=20,
        ir=10,
        task="classification",
        labels=LABELS,
        **fields,
    )


def picture(color: int, shade: int = 200, side: int = 12) -> bytes:
    """Return a PNG in which channel *color* has *shade* and the others little."""
    pixels = np.full((side, side, 3), 20, np.uint8)
    pixels[..., color] = shade
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(
    path: Path,
    rows: int,
    *,
    row_group: int = 50,
    first: int = 0,
    bad: dict[int, bytes | None] | None = None,
    side: int = 12,
) -> Path:
    """Write a Parquet file of pictures, row n of color n % 3, with the columns image, number and name.

    Args:
        path: To write.
        rows: How many.
        row_group: Rows a row group.
        first: Number of the first row.
        bad: By row of the file, what it has instead of a picture.
        side: Width and height of the pictures.
    """
    pictures = [picture(color, side=side) for color in range(3)]
    numbers = range(first, first + rows)
    images = [pictures[number % 3] for number in numbers]
    for row, data in (bad or {}).items():
        images[row] = data
    table = pa.table(
        {
            "image": pa.array(images, pa.binary()),
            "number": pa.array(numbers, pa.int32()),
            "name": [LABELS[number % 3] for number in numbers],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return path
