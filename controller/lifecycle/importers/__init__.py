"""Importers: a table from what a source looks like to the module that reads it.

Rules:
    * An importer's module has ``load(path, custom_ops) -> ImportedModel``; it is imported only when its turn
      has come, since a framework can take many seconds to load.
    * The first row whose test says yes decides.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.lifecycle.importers.base import ImportedModel
from runtime.errors import UsageError
from runtime.manifest import CustomOps

__all__ = ["IMPORTERS", "ImportedModel", "Importer", "load_source"]


@dataclass(frozen=True, slots=True)
class Importer:
    """One kind of source."""

    what: str
    recognizes: Callable[[Path], bool]
    module: str


IMPORTERS: Sequence[Importer] = (
    Importer("a training run", Path.is_dir, "controller.lifecycle.importers.run"),
    Importer("an .onnx file", lambda path: path.suffix == ".onnx", "controller.lifecycle.importers.onnx_file"),
)


def load_source(source: str, custom_ops: Sequence[CustomOps] = ()) -> ImportedModel:
    """Load the model that *source* names.

    Args:
        source: A path.
        custom_ops: Libraries of operators that it uses.

    Raises:
        UsageError: There is nothing, or nothing that an importer knows.
        VedetteError: The importer cannot read it; the text says why.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"model source {source!r} does not exist")
    for importer in IMPORTERS:
        if importer.recognizes(path):
            model: ImportedModel = importlib.import_module(importer.module).load(path, custom_ops)
            return model
    raise UsageError(f"model source {source!r} is none of: {', '.join(importer.what for importer in IMPORTERS)}")
