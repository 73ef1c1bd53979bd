"""Tiny real models of the tasks beside classification and detection, whose right answers are known.

Each takes uint8 NHWC pictures of `SIDE` by `SIDE`:

    semantic    the channel that a pixel has most of: its class, background, green or blue
    saliency    how red a pixel is, 0 to 1
    movenet     three keypoints at fixed shares of the input, scores 0.2, 0.6 and 0.9
    embedding   the mean of each channel
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from artifact_of import artifact_of
from onnx import TensorProto, helper, numpy_helper

from runtime.artifact import Artifact
from runtime.manifest import Postprocess, Preprocess, Resize, Task

SIDE = 8
LABELS = ("background", "green", "blue")
KEYPOINTS = ((0.25, 0.125, 0.2), (0.5, 0.5, 0.6), (0.75, 0.625, 0.9))  # y, x, score; shares of the input

Nodes = list[onnx.NodeProto]


@dataclass(frozen=True)
class Tiny:
    """What makes one of the models: its nodes from ``float`` to ``out``, constants, and the shape of ``out``."""

    task: Task
    nodes: Callable[[], Nodes]
    constants: Mapping[str, np.ndarray]
    shape: tuple[int | str, ...]
    labels: tuple[str, ...] = ()


TINY: Mapping[str, Tiny] = {
    "semantic": Tiny(
        "segmentation",
        lambda: [helper.make_node("Identity", ["float"], ["out"])],
        {},
        ("N", SIDE, SIDE, 3),
        LABELS,
    ),
    "saliency": Tiny(
        "segmentation",
        lambda: [
            helper.make_node("Gather", ["float", "first"], ["red"], axis=3),
            helper.make_node("Div", ["red", "levels"], ["out"]),
        ],
        {"first": np.array([0], np.int64), "levels": np.float32(255)},
        ("N", SIDE, SIDE, 1),
    ),
    "movenet": Tiny(
        "pose",
        lambda: [
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
            helper.make_node("Add", ["zeros", "keypoints"], ["out"]),
        ],
        {
            "axes": np.array([1, 2, 3], np.int64),
            "zero": np.float32(0),
            "keypoints": np.array(KEYPOINTS, np.float32)[None, None],
        },
        ("N", 1, len(KEYPOINTS), 3),
    ),
    "embedding": Tiny(
        "embedding",
        lambda: [helper.make_node("ReduceMean", ["float", "axes"], ["out"], keepdims=0)],
        {"axes": np.array([1, 2], np.int64)},
        ("N", 3),
    ),
}


def write_task_artifact(kind: str, root: Path, **postprocess: object) -> Artifact:
    """Write the model of head *kind* as an artifact into the new directory *root*."""
    tiny = TINY[kind]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT), *tiny.nodes()],
        kind,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, tiny.shape)],
        [numpy_helper.from_array(value, name) for name, value in tiny.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    root.mkdir(parents=True)
    file = root / "model.fp32.onnx"
    onnx.save(model, file)
    return artifact_of(
        {"fp32": file},
        root,
        Preprocess(resize=Resize(mode="exact", size=(SIDE, SIDE)), embedded=True),
        Postprocess(kind=kind, activation="none", **postprocess),
        opset=20,
        ir=10,
        task=tiny.task,
        labels=tiny.labels,
        name="tiny",
    )
