"""From built variants to a manifest: golden file, tolerances, the reference's latency. Nothing is judged yet.

A draft is an artifact like any other; `controller.lifecycle.variants.judging` measures it as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from controller.lifecycle.evaluation.evaluate import measure_latency
from controller.lifecycle.quantization.calibration.images import spread_images
from controller.lifecycle.variants.golden import (
    TOLERANCES,
    golden_input,
    int8_tolerance,
    pictures_within_limit,
    synthetic_pictures,
    write_golden,
)
from controller.lifecycle.variants.kinds import INT8, VARIANTS, variant_of
from controller.lifecycle.variants.reference import Built
from runtime.artifact import Artifact
from runtime.datasets import Dataset
from runtime.manifest import MANIFEST_FILE, Golden, Manifest, Postprocess, Provenance, Task, Variant
from runtime.session import Session

__all__ = ["Card", "Draft"]

GOLDEN_PICTURES = 8  # looked at most; a graph of a larger fixed batch repeats them

Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the manifest says of a model beside its files.

    Attributes:
        name: Of the model.
        task: What it does.
        labels: Names of its classes.
        postprocess: Its head.
        provenance: Where it came from.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    postprocess: Postprocess
    provenance: Provenance


def _run(session: Session, batch: npt.NDArray[Any]) -> Outputs:
    return {tensor.name: output for tensor, output in zip(session.outputs, session.run(batch), strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The variants of one model, as files in one directory.

    Attributes:
        directory: Holds the files.
        reference: The variant that all others are judged by.
        paths: ONNX file by variant id, the reference first.
        sessions: On them, on the CPU EP.
        batch: The golden input.
        outputs: What each variant gives for it, by id.
    """

    directory: Path
    reference: Built
    paths: Mapping[str, Path]
    sessions: Mapping[str, Session]
    batch: npt.NDArray[Any]
    outputs: Mapping[str, Outputs]

    @classmethod
    def of(cls, directory: Path, reference: Built, others: Mapping[str, Path], pictures: Dataset | None) -> Draft:
        """Run all variants on a golden input made from *pictures*, or from synthetic ones if there are none."""
        paths = {reference.precision: reference.path, **others}
        sessions = {name: Session(path, custom_ops=reference.custom_ops) for name, path in others.items()}
        sessions = {reference.precision: reference.session, **sessions}
        chosen = synthetic_pictures(GOLDEN_PICTURES) if pictures is None else spread_images(pictures, GOLDEN_PICTURES)
        batch = golden_input(reference.session.image, reference.preprocessor, chosen)
        if not reference.has_fixed_batch:
            batch = batch[: pictures_within_limit(_run(reference.session, batch), len(batch))]
        outputs = {name: _run(session, batch) for name, session in sessions.items()}
        return cls(
            directory=directory, reference=reference, paths=paths, sessions=sessions, batch=batch, outputs=outputs
        )

    @property
    def one(self) -> npt.NDArray[Any]:
        """One picture, or the fixed batch: what latency is measured with."""
        return self.batch if self.reference.has_fixed_batch else self.batch[:1]

    def manifest(self, card: Card) -> Manifest:
        """Write the golden file and return the manifest of all variants; only the reference is measured."""
        reference = self.reference.precision
        latency = measure_latency({reference: self.paths[reference]}, self.one, self.reference.custom_ops)
        figures = {"latency_ms": round(latency[reference], 4), "parity_max_abs": self.reference.parity}
        return Manifest(
            name=card.name,
            version=1,  # the publisher gives the real one
            task=card.task,
            labels=card.labels,
            preprocess=self.reference.preprocess,
            postprocess=card.postprocess,
            variants=tuple(self._variant(name, figures if name == reference else {}) for name in self.paths),
            golden=self._golden(self.paths),
            custom_ops=self.reference.custom_ops,
            provenance=card.provenance,
        )

    def _variant(self, name: str, metrics: Mapping[str, float]) -> Variant:
        kind = None if name == self.reference.precision else VARIANTS[name]
        outputs = self.outputs[name], self.outputs[self.reference.precision]
        if kind is not None and kind.precision == INT8:
            tolerance = int8_tolerance(*outputs)
        else:
            tolerance = TOLERANCES[kind.precision if kind else name]
        return variant_of(self.paths[name], self.sessions[name], name, tolerance, metrics, kind=kind)

    def _golden(self, ids: Iterable[str]) -> Golden:
        path = write_golden(self.directory, self.batch, {name: self.outputs[name] for name in ids})
        return Golden(**Golden.measure(path))

    def opened(self, manifest: Manifest) -> Artifact:
        """Return the artifact of *manifest*, whose file is written for it."""
        (self.directory / MANIFEST_FILE).write_bytes(manifest.to_bytes())
        return Artifact.open(self.directory)

    def with_variants(self, manifest: Manifest, variants: Sequence[Variant]) -> Manifest:
        """Return *manifest* with *variants* alone, and the golden file written anew for them."""
        golden = self._golden([variant.id for variant in variants])
        return manifest.model_copy(update={"variants": tuple(variants), "golden": golden})
