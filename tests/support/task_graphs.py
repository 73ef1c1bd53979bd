"""Small ONNX graphs in the manner of well-known families, for tests of import and recognition.

Every graph looks at its pictures in the least way that shows: the mean of what it is fed brightens its answers, except
those that are whole numbers, such as labels. Where there is an object, and of what class, is written into it, so that a
test knows what must come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["NAMES", "OBJECT", "YOLO_METADATA", "answering_graph", "dense_rows", "grid", "save_graph"]

Array = npt.NDArray[Any]

SIZE = 64  # pixels, height and width of the inputs
NAMES = ("cat", "dog", "bird")
OBJECT = (16.0, 20.0, 24.0, 12.0)  # centre and size in pixels of the one object that detectors see, a dog
YOLO_METADATA: Mapping[str, str] = {
    "description": "Ultralytics model",
    "author": "Ultralytics",
    "task": "detect",
    "stride": "32",
    "batch": "1",
    "imgsz": f"[{SIZE}, {SIZE}]",
    "names": repr(dict(enumerate(NAMES))),
    "args": "{'batch': 1, 'half': False, 'nms': False}",
}


def grid(size: int = SIZE, strides: Sequence[int] = (8, 16, 32), boxes: int = 1) -> Array:
    """Return (n, 3): centre x, y and stride of each box, in the order in which YOLO predicts."""
    rows = []
    for stride in strides:
        ticks = (np.arange(size // stride) + 0.5) * stride
        y, x = np.meshgrid(ticks, ticks, indexing="ij")
        cells = np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1)
        rows.append(np.tile(cells, (boxes, 1)))
    return np.concatenate(rows)


def dense_rows(
    *, objectness: bool = False, boxes: int = 1, rest: int = 0, raw: bool = False, classes: int = len(NAMES)
) -> Array:
    """Return (anchors, 4 [+ 1] + classes + rest) predictions in pixels, one of which is a dog at `OBJECT`.

    Args:
        objectness: Whether there is such a column.
        boxes: A cell.
        rest: Columns behind the class scores.
        raw: Boxes are relative to their cells, as YOLOX gives them.
        classes: How many.
    """
    generator = np.random.default_rng(5)
    cells = grid(boxes=boxes)
    centres = cells[:, :2] + generator.uniform(-3, 3, (len(cells), 2))
    sizes = cells[:, 2:] * generator.uniform(0.5, 3, (len(cells), 2))
    rows = np.concatenate([centres, sizes], axis=1)
    nearest = int(np.argmin(np.abs(cells[:, :2] - OBJECT[:2]).sum(axis=1) + (cells[:, 2] != 8) * 1000))
    rows[nearest] = OBJECT
    if raw:
        corner = cells[:, :2] - cells[:, 2:] / 2
        rows = np.concatenate([(rows[:, :2] - corner) / cells[:, 2:], np.log(rows[:, 2:] / cells[:, 2:])], axis=1)
    scores = generator.uniform(0.001, 0.02, (len(cells), classes))
    scores[nearest, min(1, classes - 1)] = 0.9
    sure = generator.uniform(0.001, 0.02, (len(cells), 1))
    sure[nearest] = 0.95
    parts = [rows, *([sure] if objectness else []), scores, generator.normal(0, 1, (len(cells), rest))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def answering_graph(
    outputs: Mapping[str, Array],
    *,
    shape: Sequence[int | str] = ("N", 3, SIZE, SIZE),
    dtype: int = TensorProto.FLOAT,
    metadata: Mapping[str, str] | None = None,
    opset: int = 17,
    sizes_input: str | None = None,
) -> onnx.ModelProto:
    """Return a graph that answers every picture with *outputs*, a thousandth brighter by the mean of its pixels.

    Args:
        outputs: By name: what a picture is answered with, without the batch dimension.
        shape: Of the input ``images``; a string is a dynamic dimension.
        dtype: Of the input; floating point outputs have it too, if it is a floating point type.
        metadata: To write into the file.
        opset: Of the operators.
        sizes_input: Name of a second input, of int64 (N, 2), which boxes are multiplied with nothing of.
    """
    floats = dtype in {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
    kind = dtype if floats else TensorProto.FLOAT
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=kind),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "thousandth"], ["light"]),
    ]
    constants = [numpy_helper.from_array(np.array(1e-3, numpy_kind), "thousandth")]
    values = []
    for name, answer in outputs.items():
        is_float = np.issubdtype(answer.dtype, np.floating)
        stored = answer.astype(numpy_kind) if is_float else answer
        constants.append(numpy_helper.from_array(stored[None], f"{name}_answer"))
        constants.append(numpy_helper.from_array(np.array([-1] + [1] * answer.ndim, np.int64), f"{name}_shape"))
        lit = (answer != np.rint(answer)).astype(numpy_kind)
        constants.append(numpy_helper.from_array(lit[None], f"{name}_lit"))
        nodes.append(helper.make_node("Reshape", ["light", f"{name}_shape"], [f"{name}_shaped"]))
        nodes.append(helper.make_node("Mul", [f"{name}_shaped", f"{name}_lit"], [f"{name}_light"]))
        output_kind = helper.np_dtype_to_tensor_dtype(stored.dtype)
        nodes.append(helper.make_node("Cast", [f"{name}_light"], [f"{name}_cast"], to=output_kind))
        nodes.append(helper.make_node("Add", [f"{name}_answer", f"{name}_cast"], [name]))
        values.append(helper.make_tensor_value_info(name, output_kind, [shape[0], *answer.shape]))
    inputs = [helper.make_tensor_value_info("images", dtype, shape)]
    if sizes_input is not None:
        inputs.append(helper.make_tensor_value_info(sizes_input, TensorProto.INT64, [shape[0], 2]))
    graph = helper.make_graph(nodes, "answering", inputs, values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def save_graph(model: onnx.ModelProto, path: Path) -> Path:
    """Write *model* to *path* and return that."""
    onnx.save(model, path)
    return path
