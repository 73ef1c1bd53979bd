"""From a reference to a judged manifest: variants built, drafted, measured. Imports and `model quantize` share it.

Rules:
    * The search for a quantized variant sees calibration images alone; labelled data comes after it, and only accepts
      or rejects.
    * What a search tried is said in the notes; what it reached stands among the variant's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.lifecycle.evaluation.evaluate import Evaluation
from controller.lifecycle.quantization.recovery.search import Goal, Recovery
from controller.lifecycle.variants.building import Workshop
from controller.lifecycle.variants.draft import Card, Draft
from controller.lifecycle.variants.judging import judged
from controller.lifecycle.variants.reference import Built
from runtime.datasets import Dataset
from runtime.manifest import Manifest

__all__ = ["Assembled", "Materials", "assemble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What variants are built with and judged by.

    Attributes:
        variants: Ids of those to build.
        calibration: Images to quantize with, if there are some.
        evaluation: Labelled ones to judge by, if there are some.
        pictures: For the golden file, if there are some.
        built: Files of variants that are there already, by id.
        max_drop: Percentage points of the primary figure that a variant may lose.
        goal: Of the searches for quantized variants.
    """

    variants: tuple[str, ...]
    calibration: Dataset | None
    evaluation: Dataset | None
    pictures: Dataset | None
    built: Mapping[str, Path]
    max_drop: float
    goal: Goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A manifest that is ready to be published.

    Attributes:
        manifest: Without the variants that were rejected, which it names.
        evaluation: Of the reference, for the model card; ``None``: accuracy was not measured.
        recoveries: What the searches gave, by id of the variant.
        notes: What is to be said of it.
    """

    manifest: Manifest
    evaluation: Evaluation | None
    recoveries: Mapping[str, Recovery]
    notes: tuple[str, ...]


def assemble(reference: Built, card: Card, materials: Materials, directory: Path) -> Assembled:
    """Build the variants of *reference* in *directory*, and judge them.

    Raises:
        UsageError: A variant needs images, and there are none.
        DatasetError: Calibration or evaluation data cannot be used.
    """
    workshop = Workshop(reference, materials.calibration, directory, materials.goal)
    paths, failed = workshop.build_all(materials.variants)
    draft = Draft.of(directory, reference, {**materials.built, **paths}, materials.pictures)
    manifest = _with_fidelity(draft.manifest(card), workshop.recoveries)
    found = judged(draft, manifest, materials.evaluation, materials.max_drop, failed=failed)
    searched = [f"{name}: {recovery.summary()}" for name, recovery in workshop.recoveries.items()]
    rejected = [f"{one.id} was rejected: {one.reason}" for one in found.manifest.rejected]
    return Assembled(
        manifest=found.manifest,
        evaluation=found.evaluation,
        recoveries=workshop.recoveries,
        notes=(*searched, *rejected),
    )


def _with_fidelity(manifest: Manifest, recoveries: Mapping[str, Recovery]) -> Manifest:
    variants = tuple(
        variant.model_copy(update={"metrics": {**variant.metrics, **recoveries[variant.id].metrics()}})
        if variant.id in recoveries
        else variant
        for variant in manifest.variants
    )
    return manifest.model_copy(update={"variants": variants})
