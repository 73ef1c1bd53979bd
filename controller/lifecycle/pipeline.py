"""One pipeline for every model: source, gate, variants, golden file, figures, publication.

Rules:
    * Everything is built in a temporary directory; the store sees a finished artifact or nothing.
    * Figures come from the draft itself, an artifact like any other, through the predictor.
    * What was not done, and why, is said in the report's notes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from controller.lifecycle.card import activation_of, class_labels, read_labels
from controller.lifecycle.draft import Draft
from controller.lifecycle.graph import find_image_input, real_inputs
from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.importers import ImportedModel, load_source
from controller.lifecycle.presets import PRESETS, complete, resolve_preprocess
from controller.lifecycle.variants import BUILDERS, FP32, build_fp32, check_precisions
from controller.registry.publish import publish
from runtime.datasets import Dataset, open_dataset
from runtime.errors import DatasetError, UsageError
from runtime.manifest import MODEL_NAME, Manifest, Preprocess, Provenance
from runtime.store import ModelStore

__all__ = ["ImportReport", "ImportRequest", "import_model"]

CLASSIFICATION = "classification"
DEFAULT_PRECISIONS = (FP32, "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What was asked of an import; ``None`` means: found out, or not at all where nothing says."""

    source: str
    name: str
    task: str = CLASSIFICATION
    labels: Path | None = None
    preprocess: str | None = None
    activation: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    precisions: tuple[str, ...] | None = None
    max_drop: float = 0.5  # percentage points of top-1
    image_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no model name; expected lowercase letters, digits, '-' and '_', at most 63"
            )
        if self.task != CLASSIFICATION:
            raise UsageError(f"task {self.task!r} cannot be imported; expected {CLASSIFICATION}")
        if not self.max_drop >= 0:
            raise UsageError(f"--max-drop is {self.max_drop}; expected 0 or more percentage points")
        if self.precisions is not None:
            check_precisions(self.precisions)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What came of an import."""

    manifest: Manifest
    notes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Work:
    """An import under way."""

    request: ImportRequest
    directory: Path
    imported: ImportedModel
    notes: list[str] = field(default_factory=list)
    calibration: Dataset | None = None
    evaluation: Dataset | None = None

    def open(self, uri: str) -> Dataset:
        """Open the dataset at *uri* with the columns that were asked for."""
        request = self.request
        return open_dataset(uri, image_column=request.image_column, label_column=request.label_column)

    def find_data(self) -> None:
        """Find the calibration and the held-out data: as asked for, otherwise the source's own."""
        request = self.request
        if not (request.calibration and request.evaluation):
            self.calibration, self.evaluation = self._own_data()
        if request.evaluation:
            self.evaluation = self.open(request.evaluation)
        if request.calibration and self.evaluation is not None:
            self.calibration = self.open(request.calibration)
        elif request.calibration:
            self.calibration, self.evaluation = open_with_held_out(
                request.calibration, image_column=request.image_column, label_column=request.label_column
            )
        if self.evaluation is None:
            self.notes.append("accuracy was not measured: no --evaluation")

    def _own_data(self) -> tuple[Dataset, Dataset] | tuple[None, None]:
        if self.imported.data is not None:
            try:
                return self.imported.data()
            except DatasetError as error:
                self.notes.append(f"the source's own data is not used: {error}")
        return None, None

    def precisions(self) -> tuple[str, ...]:
        """Return the precisions to build beside fp32."""
        wanted = self.request.precisions
        if wanted is None:
            wanted = DEFAULT_PRECISIONS if self.calibration is not None else (FP32,)
            if self.calibration is None:
                self.notes.append("no int8 variant was built: no --calibration")
        if len(wanted) > 1 and self.evaluation is None:
            raise UsageError(f"precision {', '.join(wanted)} must be judged on labelled images: give --evaluation URI")
        return tuple(dict.fromkeys(precision for precision in wanted if precision != FP32))


def import_model(request: ImportRequest, store: ModelStore) -> ImportReport:
    """Import the model that *request* describes and publish it in *store*.

    Raises:
        UsageError: The request does not fit the model: preprocessing, labels, precision.
        ExportError: The model did not pass the gate.
        DatasetError: Calibration or evaluation data cannot be used.
        OSError: The disk is full, or the store cannot be written.
    """
    preset = resolve_preprocess(request.preprocess) if request.preprocess else None
    labels = read_labels(request.labels) if request.labels else None
    imported = load_source(request.source)
    with tempfile.TemporaryDirectory(prefix="vedette-import-") as scratch:
        work = _Work(request=request, directory=Path(scratch), imported=imported)
        work.find_data()
        precisions = work.precisions()
        fp32 = build_fp32(imported, _preprocess(work, preset), work.directory)
        labels = class_labels(fp32.scores_shape, labels, imported.labels)
        others = {p: BUILDERS[p].build(fp32, work.calibration, work.directory) for p in precisions}
        draft = Draft.of(work.directory, fp32, others, work.calibration or work.evaluation)
        manifest = draft.manifest(
            request.name,
            labels,
            activation_of(imported.graph, request.activation),
            _provenance(imported),
        )
        manifest = draft.judged(manifest, work.evaluation, request.max_drop)
        work.notes += [f"{one.id} was rejected: {one.reason}" for one in manifest.rejected]
        return ImportReport(publish(store, work.directory, manifest), tuple(work.notes))


def _preprocess(work: _Work, preset: Preprocess | None) -> Preprocess:
    """Return the complete preprocessing of the model: the source's own, or the one asked for."""
    own, graph = work.imported.preprocess, work.imported.graph
    if own is not None and preset is not None:
        raise UsageError(f"{work.request.source} says itself how its pictures are prepared; leave --preprocess out")
    chosen = own or preset
    if chosen is None:
        raise UsageError(f"--preprocess is needed for {work.request.source}: a file, or one of {', '.join(PRESETS)}")
    found = find_image_input(graph)
    if found is None:
        inputs = ", ".join(value.name for value in real_inputs(graph)) or "none"
        raise UsageError(
            f"{work.request.source} does not take pictures: expected one input of four dimensions with 1 or 3 "
            f"channels; its inputs are: {inputs}"
        )
    takes_pixels = found.dtype == "uint8" and found.layout == "NHWC"
    if chosen.embedded and not takes_pixels:
        raise UsageError(
            f"the preprocessing says 'embedded', but input {found.name!r} is {found.dtype} {found.layout}; "
            "a graph that normalizes itself takes uint8 NHWC"
        )
    if takes_pixels and not chosen.embedded:
        work.notes.append("the graph takes uint8 pixels and normalizes itself: mean, std and scale are not applied")
        chosen = chosen.model_copy(update={"embedded": True})
    elif not takes_pixels and found.dtype != "float32":
        work.notes.append(f"the normalization stays outside the graph: its input is {found.dtype}")
    return complete(chosen, found)


def _provenance(imported: ImportedModel) -> Provenance:
    return Provenance(
        framework=imported.framework,
        created=datetime.now(UTC),
        source_sha256=imported.source_sha256,
        dataset=imported.dataset,
        git=imported.git,
    )
