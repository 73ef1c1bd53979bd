"""Quantized variants of a published model: built from its fp32 file, judged, published as its next version.

Rules:
    * What an import does is done by the same functions (`controller.lifecycle.variants.assembly`): the graph goes
      through the gate again, the variants are searched for, judged, and rejected with their figures.
    * Variants that are not built anew are judged again beside the new ones, and stay.
    * If no new variant earns its place, nothing is published.
    * What the model claims of ONNX Runtime stays, unless its variants are run on the oldest one anew.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from controller.errors import ExportError
from controller.lifecycle.card.making import card_maker
from controller.lifecycle.gate.checks import check_graph
from controller.lifecycle.gate.oldest import OldestRuntime, not_run, prove_on_oldest
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.quantization.recovery.search import Goal, Recovery
from controller.lifecycle.variants.assembly import Materials, assemble
from controller.lifecycle.variants.draft import Card
from controller.lifecycle.variants.kinds import INT8, VARIANTS, requested
from controller.lifecycle.variants.reference import FP32, Built
from controller.registry.publish import publish
from runtime.artifact import Artifact
from runtime.datasets import Dataset, open_dataset
from runtime.errors import UsageError
from runtime.hardware import this_machine
from runtime.manifest import Manifest
from runtime.store import ModelStore, resolve_artifact

__all__ = ["QuantizeReport", "QuantizeRequest", "quantize_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeRequest:
    """What was asked of `vedette model quantize`.

    Attributes:
        reference: ``NAME[@VERSION]``, or the directory of an artifact.
        calibration: Dataset to quantize with.
        evaluation: Labelled dataset to judge by; ``None``: rows held out of the calibration data.
        precisions: Variants to build, in words.
        max_drop: Percentage points of the primary figure that a variant may lose.
        goal: Of the searches.
        oldest_ort: Interpreter that has the oldest ONNX Runtime that the model is to run on.
        image_column: Of Parquet datasets.
        label_column: Of Parquet datasets.
    """

    reference: str
    calibration: str
    evaluation: str | None = None
    precisions: tuple[str, ...] = (FP32, INT8)
    max_drop: float = 0.5
    goal: Goal = field(default_factory=Goal)
    oldest_ort: Path | None = None
    image_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise UsageError(f"--max-drop is {self.max_drop}; expected 0 or more percentage points")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """What came of it.

    Attributes:
        manifest: As published.
        recoveries: What the searches gave, by id of the variant.
        notes: What is to be said of it.
    """

    manifest: Manifest
    recoveries: Mapping[str, Recovery]
    notes: tuple[str, ...]


def quantize_model(request: QuantizeRequest, store: ModelStore) -> QuantizeReport:
    """Build the variants that *request* asks for, and publish the model's next version in *store*.

    Raises:
        UsageError: The model has no fp32 variant, or a variant cannot be built.
        ModelNotFoundError: There is no such model.
        ExportError: The fp32 graph does not pass the gate, no new variant earns its place, or one does not run on the
            oldest ONNX Runtime.
        DatasetError: Calibration or evaluation data cannot be used.
        OSError: The disk is full, or the store cannot be written.
    """
    oldest = OldestRuntime.open(request.oldest_ort) if request.oldest_ort is not None else None
    artifact = resolve_artifact(request.reference, store)
    manifest = artifact.manifest
    if FP32 not in {variant.id for variant in manifest.variants}:
        raise UsageError(
            f"{manifest.reference} has no {FP32} variant to quantize; it has "
            f"{', '.join(variant.id for variant in manifest.variants)}"
        )
    wanted = requested(tuple(dict.fromkeys((FP32, *request.precisions))), this_machine())
    calibration, evaluation = _data(request, manifest)
    with tempfile.TemporaryDirectory(prefix="vedette-quantize-") as scratch:
        directory = Path(scratch)
        reference = _reference(artifact, directory, oldest)
        materials = Materials(
            variants=wanted,
            calibration=calibration,
            evaluation=evaluation,
            pictures=calibration,
            built=_kept(artifact, wanted, directory),
            max_drop=request.max_drop,
            goal=request.goal,
        )
        assembled = assemble(reference, _card(manifest), materials, directory)
        if not {variant.id for variant in assembled.manifest.variants}.intersection(wanted):
            reasons = "; ".join(f"{one.id}: {one.reason}" for one in assembled.manifest.rejected)
            tables = "\n".join(recovery.table() for recovery in assembled.recoveries.values())
            raise ExportError(f"nothing new was published of {manifest.name}: {reasons}\n{tables}".rstrip())
        judged = _with_claim_of(manifest, assembled.manifest)
        if oldest is not None:
            judged = prove_on_oldest(directory, judged, oldest)
        notes = (*assembled.notes, *([not_run(judged)] if oldest is None else []))
        published = publish(store, directory, judged, card_maker(assembled.evaluation, notes))
    return QuantizeReport(manifest=published, recoveries=assembled.recoveries, notes=notes)


def _with_claim_of(parent: Manifest, manifest: Manifest) -> Manifest:
    """Return *manifest* with the ONNX Runtime that *parent* claims."""
    return manifest.model_copy(update={"requires": manifest.requires.model_copy(update={"ort": parent.requires.ort})})


def _data(request: QuantizeRequest, manifest: Manifest) -> tuple[Dataset, Dataset]:
    def opened(uri: str) -> Dataset:
        return open_dataset(uri, image_column=request.image_column, label_column=request.label_column)

    if request.evaluation is not None:
        return opened(request.calibration), opened(request.evaluation)
    if manifest.task != "classification":
        raise UsageError(f"a variant of {manifest.reference} must be judged: give --evaluation URI")
    return open_with_held_out(request.calibration, image_column=request.image_column, label_column=request.label_column)


def _reference(artifact: Artifact, directory: Path, oldest: OldestRuntime | None) -> Built:
    manifest = artifact.manifest
    variant = manifest.variant(FP32)
    path = directory / variant.file
    shutil.copyfile(artifact.verified_path(variant), path)
    return Built(
        precision=FP32,
        path=path,
        session=check_graph(path, manifest.custom_ops, oldest),
        preprocess=manifest.preprocess,
        parity=variant.metrics.get("parity_max_abs", 0.0),
        custom_ops=manifest.custom_ops,
    )


def _kept(artifact: Artifact, wanted: tuple[str, ...], directory: Path) -> dict[str, Path]:
    """Copy the variants that are not built anew, and return their files."""
    kept = [v for v in artifact.manifest.variants if v.id in VARIANTS and v.id not in wanted]
    for variant in kept:
        shutil.copyfile(artifact.verified_path(variant), directory / variant.file)
    return {variant.id: directory / variant.file for variant in kept}


def _card(manifest: Manifest) -> Card:
    return Card(
        name=manifest.name,
        task=manifest.task,
        labels=manifest.labels,
        postprocess=manifest.postprocess,
        provenance=manifest.provenance.model_copy(update={"created": datetime.now(UTC)}),
    )
