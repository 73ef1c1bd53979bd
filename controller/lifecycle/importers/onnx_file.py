"""Imports an ONNX file from anywhere: external data inlined, opset and IR brought down to what is published."""

from __future__ import annotations

from pathlib import Path

from controller.errors import ExportError
from controller.lifecycle.graph import at_most_published_versions, load_graph
from controller.lifecycle.importers.base import ImportedModel
from runtime.errors import ModelError
from runtime.files import hash_file
from runtime.session import Session

__all__ = ["load"]


def load(path: Path) -> ImportedModel:
    """Load the ONNX file at *path*.

    Raises:
        ExportError: It is no ONNX model, ONNX Runtime does not load it, or its versions cannot be brought down.
    """
    original = load_graph(path)
    try:
        session = Session(path)
    except ModelError as error:
        raise ExportError(str(error)) from None
    producer = f"{original.producer_name} {original.producer_version}".strip()
    return ImportedModel(
        graph=at_most_published_versions(original),
        reference=session.run,
        framework=producer or "onnx",
        source_sha256=hash_file(path),
    )
