"""From built variants to a manifest that is ready to be published: golden file, figures, and who earns a place.

Rules:
    * The draft is an artifact like any other, and is measured as such.
    * A rejected variant leaves its figures in the manifest, and its file nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from controller.lifecycle.calibration.images import spread_images
from controller.lifecycle.evaluate import evaluate, measure_latency, why_rejected
from controller.lifecycle.footprint import peak_memory_mb
from controller.lifecycle.golden import (
    TOLERANCES,
    golden_input,
    int8_tolerance,
    pictures_within_limit,
    synthetic_pictures,
    write_golden,
)
from controller.lifecycle.reference import Built
from controller.lifecycle.variants import variant_of
from runtime.artifact import Artifact
from runtime.datasets import Dataset
from runtime.manifest import (
    MANIFEST_FILE,
    Golden,
    Manifest,
    Postprocess,
    Provenance,
    RejectedVariant,
    Requires,
    Task,
    Variant,
)
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
        paths: ONNX file by precision, the reference first.
        sessions: On them, on the CPU EP.
        batch: The golden input.
        outputs: What each variant gives for it, by precision.
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
        sessions = {p: Session(path, custom_ops=reference.custom_ops) for p, path in others.items()}
        sessions = {reference.precision: reference.session, **sessions}
        chosen = synthetic_pictures(GOLDEN_PICTURES) if pictures is None else spread_images(pictures, GOLDEN_PICTURES)
        batch = golden_input(reference.session.image, reference.preprocessor, chosen)
        if not reference.has_fixed_batch:
            batch = batch[: pictures_within_limit(_run(reference.session, batch), len(batch))]
        outputs = {precision: _run(session, batch) for precision, session in sessions.items()}
        return cls(
            directory=directory, reference=reference, paths=paths, sessions=sessions, batch=batch, outputs=outputs
        )

    def manifest(self, card: Card) -> Manifest:
        """Write the golden file and return the manifest of all variants, latency measured, accuracy not yet."""
        one = self.batch if self.reference.has_fixed_batch else self.batch[:1]
        latency = measure_latency(self.paths, one, self.reference.custom_ops)
        return Manifest(
            name=card.name,
            version=1,  # the publisher gives the real one
            task=card.task,
            labels=card.labels,
            preprocess=self.reference.preprocess,
            postprocess=card.postprocess,
            variants=tuple(self._variant(precision, latency[precision]) for precision in self.paths),
            golden=self._golden(self.paths),
            custom_ops=self.reference.custom_ops,
            provenance=card.provenance,
        )

    def _variant(self, precision: str, latency: float) -> Variant:
        metrics = {"latency_ms": round(latency, 4)}
        session = self.sessions[precision]
        if precision == self.reference.precision:
            metrics["parity_max_abs"] = self.reference.parity
            tolerance = TOLERANCES[precision]
        else:
            tolerance = int8_tolerance(self.outputs[precision], self.outputs[self.reference.precision])
        return variant_of(self.paths[precision], session, precision, tolerance, metrics)

    def _golden(self, precisions: Iterable[str]) -> Golden:
        path = write_golden(
            self.directory, self.batch, {precision: self.outputs[precision] for precision in precisions}
        )
        return Golden(**Golden.measure(path))

    def judged(self, manifest: Manifest, evaluation: Dataset | None, max_drop: float) -> Manifest:
        """Return *manifest* with measured accuracy and memory, without the variants that do not earn their place.

        Args:
            manifest: Of `manifest`.
            evaluation: Labelled data to measure accuracy on; ``None``: it is not measured, nothing is rejected.
            max_drop: Percentage points of top-1 that a variant may lose against fp32.
        """
        artifact = self._artifact(manifest)
        rejected: list[RejectedVariant] = []
        if evaluation is not None:
            measured = _with_accuracy(artifact, self.reference.precision, evaluation)
            kept, rejected = _sort_out(measured, max_drop)
            for one in rejected:
                self.paths[one.precision].unlink()
            golden = self._golden([variant.precision for variant in kept])
            manifest = manifest.model_copy(
                update={"variants": tuple(kept), "rejected": tuple(rejected), "golden": golden}
            )
            artifact = self._artifact(manifest)
        memory = max(peak_memory_mb(artifact.root, variant.id) for variant in manifest.variants)
        disk = max(variant.size for variant in manifest.variants) + manifest.golden.size
        requires = Requires(memory_mb=memory, disk_mb=math.ceil(disk / 1e6))
        return manifest.model_copy(update={"requires": requires})

    def _artifact(self, manifest: Manifest) -> Artifact:
        (self.directory / MANIFEST_FILE).write_bytes(manifest.to_bytes())
        return Artifact.open(self.directory)


def _with_accuracy(artifact: Artifact, reference_id: str, evaluation: Dataset) -> list[Variant]:
    """Return the variants of *artifact* with their accuracy, and what they gain and lose against the reference."""
    results = {variant.id: evaluate(artifact, variant.id, evaluation) for variant in artifact.manifest.variants}
    reference = artifact.manifest.variant(reference_id)
    measured = []
    for variant in artifact.manifest.variants:
        result = results[variant.id]
        metrics = {
            **variant.metrics,
            **{name: round(value, 6) for name, value in result.metrics.items()},
            "agreement_fp32": round(result.agreement(results[reference_id]), 6),
            "speedup_fp32": round(reference.metrics["latency_ms"] / variant.metrics["latency_ms"], 3),
            f"{result.primary}_images": float(result.images),
        }
        measured.append(variant.model_copy(update={"metrics": metrics}))
    return measured


def _sort_out(variants: Sequence[Variant], max_drop: float) -> tuple[list[Variant], list[RejectedVariant]]:
    """Return the variants that earn their place beside the first, and the others."""
    reference = variants[0]
    kept, rejected = [], []
    for variant in variants:
        reason = None if variant is reference else why_rejected(variant.metrics, reference.metrics, max_drop)
        if reason is None:
            kept.append(variant)
        else:
            rejected.append(
                RejectedVariant(id=variant.id, precision=variant.precision, reason=reason, metrics=variant.metrics)
            )
    return kept, rejected
