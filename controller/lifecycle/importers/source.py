"""What an importer's module gives: a source model, opened in a process of its own.

An importer's module has ``open_source(job) -> Source`` and runs in a child process
(`controller.lifecycle.importers.host`), perhaps under another interpreter than ours: a framework that takes
20 seconds to load, or that pins what we do not, never touches the rest.

Rules:
    * A module that serves a foreign framework imports the standard library, NumPy, onnx, its framework,
      `controller.errors` and this module, and nothing else of ours: the other interpreter has no more.
    * What it says of itself is JSON (`SourceFacts`), what goes in and out is arrays (``.npz``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

__all__ = ["Array", "Job", "Source", "SourceFacts"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to open.

    Attributes:
        source: A path, or ``MODULE:FACTORY``.
        weights: File with the weights, for a factory; ``None``: as the factory leaves them.
        classes: Number of classes, for a factory that takes ``num_classes``.
        image_size: (height, width) of the pictures, pixels; ``None``: as the source says.
        prepared_size: (height, width) that their preprocessing leads to; it stands in for *image_size* before an
            importer sees the job.
        color: ``L`` for a factory or an estimator of one channel.
        features: It takes features, which the preprocessing computes, and no pictures.
        trusted: A person vouches for the source, though reading it runs the code in it.
    """

    source: str
    weights: Path | None = None
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    prepared_size: tuple[int, int] | None = None
    color: str = "RGB"
    features: bool = False
    trusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What a source says of itself; JSON values only.

    Attributes:
        framework: That made it, with its version: ``keras 3.15.1``.
        source_sha256: Of the file that it came from.
        routes: Ways to ONNX, the better first, such as ``dynamo`` and ``torchscript``.
        task: What it does, if the source knows that.
        labels: Its classes, if the source knows them.
        preprocess: What it was trained with, as the manifest's `Preprocess` in JSON, if the source knows it.
        dataset: What it was trained on, in words for the manifest.
        git: Commit that it was trained at.
        data: Of a training run: what opens its data again.
        metadata: What the file says of itself.
        compares_labels: Only its labels can be compared (trees, neighbours): scores jump where float32 rounds.
        warnings: What the person should know, such as that it was not in eval mode.
    """

    framework: str
    source_sha256: str
    routes: tuple[str, ...]
    task: str | None = None
    labels: tuple[str, ...] | None = None
    preprocess: Mapping[str, Any] | None = None
    dataset: str | None = None
    git: str | None = None
    data: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    compares_labels: bool = False
    warnings: tuple[str, ...] = ()


class Source(Protocol):
    """An open source model."""

    @property
    def facts(self) -> SourceFacts:
        """What it says of itself."""

    def convert(self, route: str) -> onnx.ModelProto:
        """Return it as ONNX by *route*, with a dynamic batch where it has one.

        Raises:
            ExportError: It cannot be converted by that route; the text says what was found and how to mend it.
        """

    def run(self, batch: Array) -> list[Array]:
        """Return what the source itself gives for a batch of what the graph takes, in the graph's order."""

    def values(self, batch: Array) -> Mapping[str, npt.NDArray[np.generic]]:
        """Return values inside the source for *batch*, by the names that they have in the graph.

        For the search for the first node that diverges; empty where the framework does not tell.
        """
