"""One pipeline for every model: source, gate, variants, golden file, figures, publication.

Rules:
    * What can be refused without running the model is refused before it is loaded.
    * Everything is built in a temporary directory; the store sees a finished artifact or nothing.
    * Figures come from the draft itself, an artifact like any other, through the predictor.
    * A source is held open until its graph has passed the gate: nothing that comes after needs its framework.
    * A source of several routes to ONNX takes the first that passes the gate; the manifest says which.
    * What was recognized, assumed or not done is said in the report's notes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from controller.errors import ExportError
from controller.lifecycle.card.making import card_maker
from controller.lifecycle.data import ImportData, find_data
from controller.lifecycle.gate.oldest import OldestRuntime, not_run, prove_on_oldest
from controller.lifecycle.heads import Evidence, Facts, Recognized, parse_metadata, recognize
from controller.lifecycle.importers import ImportedModel, load_source
from controller.lifecycle.labels import agreed_labels, read_names
from controller.lifecycle.preparation.pictures import decided_preprocess, picture_input
from controller.lifecycle.preparation.presets import resolve_preprocess
from controller.lifecycle.quantization.calibration.images import spread_images
from controller.lifecycle.quantization.recovery.search import Goal
from controller.lifecycle.rehearsal import rehearse
from controller.lifecycle.request import ImportRequest
from controller.lifecycle.variants.assembly import Materials, assemble
from controller.lifecycle.variants.draft import Card
from controller.lifecycle.variants.golden import synthetic_pictures
from controller.lifecycle.variants.reference import Built, build_reference
from controller.registry.publish import publish
from runtime.custom_ops import pinned
from runtime.errors import UsageError
from runtime.manifest import Manifest, Postprocess, Preprocess, Provenance
from runtime.store import ModelStore

__all__ = ["ImportReport", "ImportRequest", "import_model"]

TOP_K = 5
CLASSLESS = ("saliency", "movenet", "embedding")  # heads whose answers name no class
REHEARSED = 4  # pictures looked at most


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What came of an import."""

    manifest: Manifest
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The files that a request names, read."""

    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    keypoints: tuple[str, ...] | None

    @classmethod
    def of(cls, request: ImportRequest) -> _Given:
        return cls(
            preprocess=resolve_preprocess(request.preprocess) if request.preprocess else None,
            labels=read_names(request.labels) if request.labels else None,
            keypoints=read_names(request.keypoints, "keypoints") if request.keypoints else None,
        )


def import_model(request: ImportRequest, store: ModelStore) -> ImportReport:
    """Import the model that *request* describes and publish it in *store*.

    Raises:
        UsageError: The request does not fit the model: task, head, preprocessing, labels, precision.
        ExportError: The model did not pass the gate.
        DatasetError: Calibration or evaluation data cannot be used.
        OSError: The disk is full, or the store cannot be written.
    """
    given = _Given.of(request)
    job = request.job(given.preprocess)
    oldest = OldestRuntime.open(request.oldest_ort) if request.oldest_ort is not None else None
    with tempfile.TemporaryDirectory(prefix="vedette-import-") as scratch:
        with load_source(request.source, pinned(request.custom_ops), job, request.importer_python) as source:
            plan, reference = _through_the_gate(request, source, given, Path(scratch), oldest)
        assembled = assemble(reference, plan.card, _materials(request, plan.data), Path(scratch))
        manifest = assembled.manifest
        if oldest is not None:
            manifest = prove_on_oldest(Path(scratch), manifest, oldest)
        unproven = [not_run(manifest)] if oldest is None else []
        notes = (*plan.notes, *reference.notes, *assembled.notes, *unproven)
        card = card_maker(assembled.evaluation, notes)
        return ImportReport(publish(store, Path(scratch), manifest, card), notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be built around a source, as it was converted."""

    preprocess: Preprocess
    data: ImportData
    card: Card
    notes: tuple[str, ...]


def _through_the_gate(
    request: ImportRequest, source: ImportedModel, given: _Given, directory: Path, oldest: OldestRuntime | None
) -> tuple[_Plan, Built]:
    """Build the reference variant from *source*, by the first of its routes that passes the gate."""
    imported = source
    while True:
        plan = _plan(request, imported, given)
        try:
            return plan, build_reference(imported, plan.preprocess, directory, oldest, optimize=request.optimize)
        except ExportError as error:
            imported = imported.by_next_route(error)


def _plan(request: ImportRequest, imported: ImportedModel, given: _Given) -> _Plan:
    """Find out what *imported* is, and decide how it is prepared, built, judged and described."""
    facts = _facts(imported)
    task = request.decided_task(imported.task or facts.task, facts.foreign_task)
    data = find_data(request, imported, task)
    preprocess, notes = decided_preprocess(request, imported, given.preprocess, facts, task)
    data = data.for_preprocess(preprocess)
    evidence = _evidence(request, imported, preprocess, facts, data, given)
    recognized = recognize(evidence, task, head=request.head, names_given=given.labels is not None)
    labels, note = agreed_labels(recognized.classes, given.labels, facts.labels)
    unnamed = [note] if note and recognized.postprocess.kind not in CLASSLESS else []
    return _Plan(
        preprocess=preprocess,
        data=data,
        card=Card(
            name=request.name,
            task=task,
            labels=labels,
            postprocess=_postprocess(request, recognized, labels, given.keypoints),
            provenance=_provenance(imported),
        ),
        notes=(*_converted(imported), recognized.said, *recognized.notes, *notes, *unnamed, *data.notes),
    )


def _converted(imported: ImportedModel) -> tuple[str, ...]:
    """Return what is to be said of the source, and of the way that it came to ONNX."""
    refused = [f"route {route} to ONNX was not taken: {why}" for route, why in imported.refused.items()]
    taken = [f"converted to ONNX by route {imported.route}"] if imported.route is not None else []
    return (*imported.notes, *refused, *taken)


def _facts(imported: ImportedModel) -> Facts:
    """Return what the source says of itself, in its metadata or otherwise."""
    facts = parse_metadata(imported.metadata)
    return facts if imported.labels is None else replace(facts, labels=imported.labels)


def _evidence(
    request: ImportRequest,
    imported: ImportedModel,
    preprocess: Preprocess,
    facts: Facts,
    data: ImportData,
    given: _Given,
) -> Evidence:
    """Run the source on a few pictures, real ones if there are any, and return what is known then."""
    pictures = synthetic_pictures(REHEARSED) if data.pictures is None else spread_images(data.pictures, REHEARSED)
    found = picture_input(imported, request.source)
    evidence = rehearse(imported, found, preprocess, pictures, facts)
    if given.labels is not None:
        evidence = replace(evidence, classes=len(given.labels))
    return replace(evidence, keypoints=len(given.keypoints) if given.keypoints is not None else None)


def _postprocess(
    request: ImportRequest, recognized: Recognized, labels: tuple[str, ...], keypoints: tuple[str, ...] | None
) -> Postprocess:
    """Return how outputs become predictions: as recognized, changed as asked."""
    postprocess = recognized.postprocess
    if keypoints is not None:
        if not postprocess.keypoints:
            raise UsageError(f"--keypoints does not apply: {recognized.said}")
        postprocess = postprocess.changed(keypoints=keypoints)
    if labels:
        postprocess = postprocess.changed(top_k=min(TOP_K, len(labels)))
    return request.changed(postprocess)


def _materials(request: ImportRequest, data: ImportData) -> Materials:
    return Materials(
        variants=data.variants,
        calibration=data.calibration,
        evaluation=data.evaluation,
        pictures=data.pictures,
        built={},
        max_drop=request.max_drop,
        goal=Goal(),
    )


def _provenance(imported: ImportedModel) -> Provenance:
    return Provenance(
        framework=imported.framework,
        created=datetime.now(UTC),
        source_sha256=imported.source_sha256,
        dataset=imported.dataset,
        git=imported.git,
        route=imported.route,
    )
