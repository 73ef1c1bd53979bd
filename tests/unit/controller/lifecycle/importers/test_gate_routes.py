"""The pipeline on a source of two routes: the first that passes the gate is published, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from controller.errors import ExportError
from controller.lifecycle import pipeline
from controller.lifecycle.importers import ImportedModel, load_source
from controller.lifecycle.pipeline import ImportRequest, import_model
from runtime.store import ModelStore

GraphMaker = Callable[..., onnx.ModelProto]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore.open(tmp_path / "store")


@pytest.fixture
def two_routes(conv_graph: GraphMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImportRequest]:
    """Make a source whose routes give the graphs of *made*; it computes what `conv_graph` does."""

    def source(**made: onnx.ModelProto) -> ImportRequest:
        path = tmp_path / "source.onnx"
        onnx.save(conv_graph(), path)
        first, *rest = made

        def load(*_: Any) -> ImportedModel:
            opened = load_source(str(path))
            return ImportedModel(
                graph=made[first],
                reference=opened.reference,
                framework="two routes 1.0",
                source_sha256=opened.source_sha256,
                route=first,
                routes=tuple(rest),
                convert=made.__getitem__,
            )

        monkeypatch.setattr(pipeline, "load_source", load)
        return ImportRequest(source=str(path), name="m", task="classification", preprocess="unit")

    return source


def test_graph_that_differs_gives_way_to_the_next_route(
    two_routes: Callable[..., ImportRequest], conv_graph: GraphMaker, store: ModelStore
) -> None:
    report = import_model(two_routes(wrong=conv_graph(last="Sigmoid"), right=conv_graph()), store)
    assert report.manifest.provenance.route == "right"
    assert store.versions("m") == [1]
    refused, taken = report.notes[:2]
    assert refused.startswith("route wrong to ONNX was not taken: ")
    assert "differs from the source" in refused
    assert taken == "converted to ONNX by route right"


def test_every_route_tells_its_reason(
    two_routes: Callable[..., ImportRequest], conv_graph: GraphMaker, store: ModelStore
) -> None:
    invalid = conv_graph()
    invalid.graph.node[1].op_type = "Rellu"
    with pytest.raises(ExportError, match=r"(?s)^route wrong: .*differs from the source.*; route invalid: .*Rellu"):
        import_model(two_routes(wrong=conv_graph(last="Sigmoid"), invalid=invalid), store)
    assert store.names() == []
