"""The whole import, from a source to the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from controller.errors import ExportError
from controller.lifecycle import pipeline
from controller.lifecycle.gate.oldest import not_run
from controller.lifecycle.pipeline import ImportRequest, import_model
from controller.lifecycle.training.record import TrainingConfig
from controller.lifecycle.training.run import train
from controller.lifecycle.variants.kinds import requested
from controller.registry.cards import read_card
from runtime.errors import UsageError
from runtime.hardware import this_machine
from runtime.predictor import Predictor
from runtime.store import ModelStore, resolve_artifact

GraphMaker = Callable[..., onnx.ModelProto]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore.open(tmp_path / "store")


@pytest.fixture
def source(conv_graph: GraphMaker, tmp_path: Path) -> str:
    path = tmp_path / "source.onnx"
    onnx.save(conv_graph(last="Softmax"), path)
    return str(path)


def test_onnx_file_becomes_a_model_that_predicts(source: str, store: ModelStore, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    report = import_model(
        ImportRequest(source=source, name="m", task="classification", preprocess="unit", labels=labels), store
    )
    manifest = report.manifest
    assert manifest.labels == ("a", "b", "c", "d")
    assert manifest.postprocess.activation == "none"
    assert manifest.preprocess.embedded
    assert set(report.notes) == {
        "head classification: output 'scores' [2, 4], 4 classes, by the shapes alone",
        "accuracy was not measured: no --evaluation",
        "no int8 variant was built: no --calibration",
        not_run(manifest),
    }
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    prediction = Predictor(resolve_artifact("m", store), provider="cpu").predict([image])[0]
    assert sum(score.score for score in prediction.top_k) == pytest.approx(1, abs=1e-5)


def test_nodes_in_any_order_are_put_in_order(source: str, store: ModelStore) -> None:
    """As ONNX Runtime loads them, and as its converter to fp16 writes them."""
    model = onnx.load(source)
    nodes = list(reversed(model.graph.node))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(model)
    onnx.save(model, source)
    report = import_model(ImportRequest(source=source, name="m", task="classification", preprocess="unit"), store)
    assert report.manifest.variants[0].metrics["parity_max_abs"] < 1e-5


def test_two_variants_from_a_run_that_knows_its_own_data(digit_folder: Path, store: ModelStore, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(digit_folder, data)
    record = train(TrainingConfig(data=str(data), arch="tiny", epochs=2, out=run))
    report = import_model(ImportRequest(source=str(run), name="digits", max_drop=100), store)
    assert {v.id for v in (*report.manifest.variants, *report.manifest.rejected)} == {
        "fp32",
        *requested(("fp32", "int8"), this_machine()),
    }
    assert report.manifest.labels == record.labels
    assert report.manifest.variants[0].metrics["top1_images"] == record.held_out.rows
    assert report.manifest.provenance.dataset is not None
    card = read_card(store, report.manifest.digest)
    assert card is not None
    assert f"{record.held_out.rows} images of {data}".encode() in card
    assert b"Confusion matrix" in card
    with pytest.raises(UsageError, match="leave --preprocess out"):
        import_model(ImportRequest(source=str(run), name="digits", preprocess="imagenet"), store)

    shutil.rmtree(data / "digit-0")
    report = import_model(ImportRequest(source=str(run), name="digits"), store)
    assert [variant.id for variant in report.manifest.variants] == ["fp32"]
    assert any("has changed since the training" in note for note in report.notes)
    assert store.versions("digits") == [1, 2]


def test_graph_that_normalizes_itself_is_left_alone(store: ModelStore, tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 8, 8, 3]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["scores"], keepdims=0),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    graph = helper.make_graph(nodes, "own", values[:1], values[1:], [axes])
    path = tmp_path / "own.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    report = import_model(
        ImportRequest(source=str(path), name="own", task="classification", preprocess="raw255"), store
    )
    assert report.manifest.preprocess.embedded
    assert report.manifest.variants[0].inputs[0].name == "pixels"
    assert "the graph takes uint8 pixels and normalizes itself: mean, std and scale are not applied" in report.notes


def test_model_that_fails_the_gate_is_not_published(
    source: str, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = pipeline.load_source

    def load_another(*arguments: Any) -> pipeline.ImportedModel:
        imported = load(*arguments)
        return replace(imported, reference=lambda batch: [imported.reference(batch)[0] + 1])

    monkeypatch.setattr(pipeline, "load_source", load_another)
    with pytest.raises(ExportError, match="differs from the source by 1"):
        import_model(ImportRequest(source=source, name="m", task="classification", preprocess="unit"), store)
    assert store.names() == []
