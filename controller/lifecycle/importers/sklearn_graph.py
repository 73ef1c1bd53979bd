"""From a fitted classifier of scikit-learn to an ONNX graph of scores, by skl2onnx, with what it leaves put right.

Rules:
    * Opset 21 of ONNX, 3 of ai.onnx.ml, IR 10: skl2onnx writes newer ones, and names a domain twice.
    * The graph gives scores (n, classes) alone: no label, whose type is the estimator's, and no map from label to
      score, which nothing that runs a graph batch by batch can use.
    * It takes pictures, float32 (n, height, width, channels), which it flattens as NumPy does; or features (n, length).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from controller.errors import ExportError

__all__ = ["SCORES", "convert"]

OPSETS = {"": 21, "ai.onnx.ml": 3}
IR = 10
BATCH = "N"
SCORES = "scores"
PIXELS, FEATURES = "pixels", "features"


def convert(estimator: Any, length: int, classes: int, picture: Sequence[int] | None) -> onnx.ModelProto:
    """Return *estimator* as ONNX.

    Args:
        estimator: A fitted classifier, or a pipeline that ends in one.
        length: How many numbers it takes.
        classes: How many scores it gives.
        picture: (height, width, channels) of the pictures that are put in front; ``None``: it keeps its features.

    Raises:
        ExportError: skl2onnx cannot convert it.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    name = type(estimator).__name__
    for part in (estimator, *estimator.get_params(deep=True).values()):
        if getattr(part, "flatten_transform", False):
            part.flatten_transform = False  # of a vote's `transform`, which is not used; skl2onnx knows no other
    last = _last(estimator)
    try:
        with _whole_numbers_of_booleans(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it reads what scikit-learn is about to drop
            converted: onnx.ModelProto = to_onnx(
                estimator,
                initial_types=[(FEATURES, FloatTensorType([None, length]))],
                target_opset=OPSETS,
                # Of two classes, skl2onnx otherwise gives one score, or both with their signs exchanged.
                options={} if hasattr(last, "predict_proba") else {id(last): {"raw_scores": True}},
            )
    except Exception as error:  # the converter raises whatever its parts raise
        raise ExportError(
            f"skl2onnx cannot convert {name}: {type(error).__name__}: {' '.join(str(error).split())[:400]}; a step "
            "that computes histograms of oriented gradients belongs into the preprocessing (--preprocess FILE with "
            "'features')"
        ) from error
    return _of_scores(converted, name, length, classes, picture)


def _last(estimator: Any) -> Any:
    """Return what decides in *estimator*: the last step of a pipeline, the best of a search."""
    if hasattr(estimator, "steps"):
        return _last(estimator.steps[-1][1])
    return _last(estimator.best_estimator_) if hasattr(estimator, "best_estimator_") else estimator


@contextmanager
def _whole_numbers_of_booleans() -> Iterator[None]:
    """Have attributes of booleans, which skl2onnx gives and protobuf refuses, written as the numbers they stand for."""
    make_attribute = helper.make_attribute

    def made(key: str, value: Any, *rest: Any, **named: Any) -> onnx.AttributeProto:
        if isinstance(value, (list, tuple)) and any(isinstance(one, (bool, np.bool_)) for one in value):
            value = [int(one) for one in value]
        return make_attribute(key, value, *rest, **named)

    helper.make_attribute = made
    try:
        yield
    finally:
        helper.make_attribute = make_attribute


def _of_scores(
    converted: onnx.ModelProto, name: str, length: int, classes: int, picture: Sequence[int] | None
) -> onnx.ModelProto:
    """Return the part of *converted* that computes scores, behind its new input."""
    makers = {made: node for node in converted.graph.node for made in node.output}
    scores = converted.graph.output[-1].name
    while scores in makers and makers[scores].op_type in {"ZipMap", "Identity"}:
        scores = makers[scores].input[0]
    if len(converted.graph.output) != 2 or scores not in makers:
        raise ExportError(f"skl2onnx made a graph of {name} that gives no label and scores")
    nodes = [node for node in converted.graph.node if node.output[0] in _needed(scores, makers)]
    nodes.append(helper.make_node("Identity", [scores], [SCORES], name="scores"))
    taken: str = FEATURES
    shape: list[int | str] = [BATCH, length]
    if picture is not None:
        nodes.insert(0, helper.make_node("Flatten", [PIXELS], [FEATURES], name="flatten", axis=1))
        taken, shape = PIXELS, [BATCH, *picture]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(taken, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [BATCH, classes])],
        [initializer for initializer in converted.graph.initializer if initializer.name in used],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="skl2onnx")
    return onnx.shape_inference.infer_shapes(model)


def _needed(name: str, makers: dict[str, onnx.NodeProto]) -> set[str]:
    """Return the names of everything that *name* is computed from, itself included."""
    needed, left = set(), [name]
    while left:
        current = left.pop()
        if current in makers and current not in needed:
            needed.update(makers[current].output)
            left += makers[current].input
    return needed
