"""Imports an ONNX file from anywhere: external data inlined, opset and IR brought down to what is published.

It is read in this process: it brings no framework, and what could go wrong with it goes through the gate here anyhow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from controller.errors import ExportError
from controller.lifecycle.admission import (
    check_inputs,
    check_operators,
    describe_value,
    numeric_outputs,
    with_three_channels,
)
from controller.lifecycle.gate.checks import Reference
from controller.lifecycle.gate.diagnosis import Evidence, explained
from controller.lifecycle.gate.inner_values import GraphValues
from controller.lifecycle.graph import at_most_published_versions, load_graph, without_wrong_shapes
from controller.lifecycle.importers.base import ImportedModel
from controller.lifecycle.importers.limits import check_size
from runtime.errors import ModelError
from runtime.files import hash_file
from runtime.inputs import feeds
from runtime.manifest import CustomOps
from runtime.session import Session

__all__ = ["load"]

UNSAID = ("None",)  # what exporters write for a name or a version, or a part of it, that they do not know


def load(path: Path, custom_ops: Sequence[CustomOps] = ()) -> ImportedModel:
    """Load the ONNX file at *path*.

    Args:
        path: Of the file.
        custom_ops: Libraries that bring operators of its own.

    Raises:
        UsageError: It takes something else than pictures, or needs operators that nobody brings.
        ExportError: It is no ONNX model, larger than one file can be, ONNX Runtime does not load it, or its versions
            cannot be brought down.
    """
    original = load_graph(path)
    check_size(original, str(path))
    check_inputs(original, str(path))
    if not custom_ops:
        check_operators(original, str(path))
    try:
        session = Session(path, custom_ops=custom_ops)
        published = without_wrong_shapes(at_most_published_versions(original))
    except (ModelError, ExportError) as error:
        raise ExportError(explained(str(error), Evidence(error=str(error), graph=original))) from None
    graph, reference = _numeric(path, with_three_channels(published), session.run)
    said = f"{original.producer_name} {original.producer_version}".split()
    producer = " ".join(word for word in said if word not in UNSAID)
    return ImportedModel(
        graph=graph,
        reference=reference,
        values=lambda batch: GraphValues(
            original, feeds(session.inputs, session.image, batch), [library.path for library in custom_ops]
        ),
        framework=producer or "onnx",
        source_sha256=hash_file(path),
        metadata={entry.key: entry.value for entry in original.metadata_props},
        custom_ops=tuple(custom_ops),
    )


def _numeric(path: Path, graph: onnx.ModelProto, reference: Reference) -> tuple[onnx.ModelProto, Reference]:
    """Return *graph* and *reference* with those outputs only that hold numbers."""
    kept = numeric_outputs(graph)
    if not kept:
        found = ", ".join(describe_value(value) for value in graph.graph.output) or "nothing"
        raise ExportError(f"{path} gives no tensor of numbers: its outputs are {found}")
    if len(kept) == len(graph.graph.output):
        return graph, reference
    outputs = [graph.graph.output[index] for index in kept]
    graph.graph.ClearField("output")
    graph.graph.output.extend(outputs)

    def numbers(batch: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        given = reference(batch)
        return [given[index] for index in kept]

    return graph, numbers
