"""What every importer gives: one model, the same for all frameworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx

from controller.lifecycle.gate import Reference
from runtime.datasets import Dataset
from runtime.manifest import CustomOps, Preprocess, Task

__all__ = ["ImportedModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A model as it came, before anything of ours is put into it.

    Attributes:
        graph: As ONNX; it takes what the source takes.
        reference: The source itself: what it gives for a batch of what `graph` takes.
        framework: That made it, with its version.
        source_sha256: Of the file that it came from.
        task: What it does, if the source knows that.
        labels: Its classes, if the source knows them.
        preprocess: What it was trained with, if the source knows it.
        dataset: What it was trained on, in words for the manifest, if known.
        git: Commit that it was trained at, if known.
        data: Opens (training data, held-out data), if the source knows them.
        metadata: What an ONNX file says of itself, as it stands there.
        custom_ops: Libraries of operators that the graph needs.
    """

    graph: onnx.ModelProto
    reference: Reference
    framework: str
    source_sha256: str
    task: Task | None = None
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    dataset: str | None = None
    git: str | None = None
    data: Callable[[], tuple[Dataset, Dataset]] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    custom_ops: tuple[CustomOps, ...] = ()
