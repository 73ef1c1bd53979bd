"""Several routes to ONNX: the first that converts and passes, and the reasons of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from controller.errors import ExportError
from controller.lifecycle.importers import Importer
from controller.lifecycle.importers.base import ImportedModel, convert_by_first
from controller.lifecycle.importers.hosted import load_hosted
from controller.lifecycle.importers.source import Job

GRAPH = onnx.ModelProto()


def convert(*closed: str) -> Callable[[str], onnx.ModelProto]:
    def by(route: str) -> onnx.ModelProto:
        if route in closed:
            raise ExportError(f"{route} is closed")
        return GRAPH

    return by


def model(routes: tuple[str, ...], *closed: str) -> ImportedModel:
    refused: dict[str, str] = {}
    graph, route, left = convert_by_first(convert(*closed), routes, refused)
    return ImportedModel(
        graph=graph,
        reference=lambda batch: [batch],
        framework="f",
        source_sha256="0",
        route=route,
        routes=left,
        refused=refused,
        convert=convert(*closed),
    )


def test_first_route_that_converts_is_taken() -> None:
    taken = model(("a", "b", "c"), "a")
    assert (taken.route, taken.routes, taken.refused) == ("b", ("c",), {"a": "a is closed"})


def test_route_that_the_gate_refuses_gives_way_to_the_next() -> None:
    taken = model(("a", "b", "c"), "b").by_next_route(ExportError("it differs"))
    assert (taken.route, taken.routes) == ("c", ())
    assert taken.refused == {"a": "it differs", "b": "b is closed"}


def test_every_reason_is_told_when_no_route_is_left() -> None:
    with pytest.raises(ExportError, match=r"^route a: a is closed; route b: b is closed$"):
        model(("a", "b"), "a", "b")
    taken = model(("a", "b"), "a")
    with pytest.raises(ExportError, match=r"^route a: a is closed; route b: it differs$"):
        taken.by_next_route(ExportError("it differs"))


def test_only_way_keeps_its_own_reason() -> None:
    with pytest.raises(ExportError, match=r"^a is closed$"):
        model(("a",), "a")
    reason = ExportError("it differs")
    with pytest.raises(ExportError) as told:
        model(("a",)).by_next_route(reason)
    assert told.value is reason


def test_hosted_source_converts_again_by_its_next_route(doubler: str) -> None:
    row = Importer(what="a doubler", recognizes=bool, module=doubler)
    with load_hosted(row, Job(source="stubborn", weights=Path("w"))) as second:
        assert (second.route, second.refused) == ("second", {"first": "the first way is closed"})
    with load_hosted(row, Job(source="well")) as first:
        assert (first.route, first.task, first.labels) == ("first", "classification", ("a", "b"))
        second = first.by_next_route(ExportError("it differs"))
        assert second.graph.graph.node[0].op_type == "Abs"
        assert second.reference(np.ones((1, 2), np.float32))[0].tolist() == [[2, 2]]
