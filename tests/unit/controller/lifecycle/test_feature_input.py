"""A graph that takes features of a picture: found, refused where nothing computes them, run like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from controller.lifecycle.feature_input import FeatureInput, check_features, find_feature_input
from controller.lifecycle.graph import precision_of
from controller.lifecycle.heads import Facts
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.rehearsal import rehearse
from controller.lifecycle.variants.golden import synthetic_pictures
from controller.lifecycle.variants.weights import classical_operator
from runtime.errors import UsageError
from runtime.manifest import Hog, Preprocess, Resize

SPEC = Hog(orientations=2, pixels_per_cell=(4, 4), cells_per_block=(1, 1))  # 2 x 3 cells of 2: 12 numbers
PREPROCESS = Preprocess(color="L", resize=Resize(mode="exact", size=(8, 12)), mean=(0.0,), std=(1.0,), features=SPEC)

LINEAR: dict[str, Any] = {"classlabels_ints": [0, 1], "coefficients": [0.5] * 24, "intercepts": [0.0, 1.0]}


def graph(shape: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    linear = helper.make_node("LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", **LINEAR)
    made = helper.make_graph(
        [linear],
        "linear",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def test_a_matrix_of_floating_point_numbers_can_hold_features() -> None:
    found = find_feature_input(graph(["N", 12]))
    assert found == FeatureInput(name="x", dtype="float32", batch="N", length=12)
    assert str(found.tensor) == "x float32 ['N', 12]"
    assert find_feature_input(graph(["N", 12], TensorProto.INT64)) is None
    assert find_feature_input(graph(["N", 3, 8, 8])) is None


def test_only_a_preprocessing_that_computes_as_many_fits() -> None:
    found = FeatureInput(name="x", dtype="float32", batch="N", length=12)
    assert check_features(PREPROCESS, found, "m") is PREPROCESS
    pixels = PREPROCESS.model_copy(update={"features": None})
    for nothing in (None, pixels):
        with pytest.raises(UsageError, match=r"m takes x float32 \['N', 12\], a matrix and no pictures"):
            check_features(nothing, found, "m")
    with pytest.raises(UsageError, match="computes 12 features of a picture of 8x12 pixels, input 'x' takes 7"):
        check_features(PREPROCESS, FeatureInput(name="x", dtype="float32", batch="N", length=7), "m")


def test_a_rehearsal_feeds_features_and_knows_the_size_of_their_pictures() -> None:
    fed = []

    def reference(batch: np.ndarray) -> list[np.ndarray]:
        fed.append(batch)
        return [batch @ np.full((12, 2), 0.5, np.float32) + np.array([0, 1], np.float32)]

    model = graph(["N", 12])
    found = find_feature_input(model)
    assert found is not None
    imported = ImportedModel(graph=model, reference=reference, framework="none", source_sha256="0" * 64)
    evidence = rehearse(imported, found, PREPROCESS, synthetic_pictures(2), Facts())
    assert (evidence.batch, evidence.height, evidence.width) == (2, 8, 12)
    assert fed[0].shape == (2, 12)
    assert fed[0].dtype == np.float32
    assert np.ptp(fed[0]) > 0


def test_of_what_only_an_operator_of_ai_onnx_ml_computes_nothing_else_is_built() -> None:
    model = graph(["N", 12])
    assert classical_operator(model) == "LinearClassifier"
    assert precision_of(model) == "fp32"
    weight = helper.make_tensor("w", TensorProto.FLOAT, [12, 2], [1.0] * 24)
    model.graph.initializer.append(weight)
    model.graph.node.append(helper.make_node("MatMul", ["x", "w"], ["products"]))
    assert classical_operator(model) == ""
