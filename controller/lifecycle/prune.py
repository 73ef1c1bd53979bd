"""From a run of `vedette train` to a smaller one: pruned, trained on, and measured beside what it came from.

Rules:
    * What comes out is a run like any other: `vedette model import` takes it, and `prune` takes it again.
    * Both runs go through the gate, as an import puts them through it; latency is that of ONNX Runtime, measured in
      turns. A run that the gate refuses is not pruned, and a pruned one that it refuses is an error.
    * It is trained on by the same loop, on the run's own data unless other data is named, with the run's own
      preprocessing.
    * Before anything is trained, the pruned model is rebuilt from what will be written down, and must be the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from controller.errors import ExportError, TrainingError
from controller.lifecycle.evaluation.evaluate import measure_latency
from controller.lifecycle.gate.oldest import OldestRuntime
from controller.lifecycle.graph import load_graph
from controller.lifecycle.importers import load_source
from controller.lifecycle.look.complexity import measure_complexity
from controller.lifecycle.look.target import noise
from controller.lifecycle.training.architectures import build
from controller.lifecycle.training.checkpoint import load_tensors
from controller.lifecycle.training.data import TrainingData
from controller.lifecycle.training.frameworks import FRAMEWORKS
from controller.lifecycle.training.loop import judge
from controller.lifecycle.training.pruning import IMPORTANCE, MaskedLearner, cut_channels, cut_weights, sparsity
from controller.lifecycle.training.record import PruningRecord, RunRecord, TrainingConfig
from controller.lifecycle.training.run import finished_run, run_training
from controller.lifecycle.training.torch_learner import TorchLearner, TrainedModel, best_device, deterministic, load_run
from controller.lifecycle.training.widths import changed_widths, resize
from controller.lifecycle.variants.reference import Built, build_reference
from runtime.errors import UsageError
from runtime.files import replace_bytes

__all__ = ["REPORT_FILE", "Figures", "PruneRequest", "Pruned", "prune"]

FRAMEWORK = "torch"
REPORT_FILE = "pruning.json"
MOST_NAMES = 8  # of classes, in an error
GENTLER = 0.5  # of the run's learning rate: what was learned is to be kept
SAME = 1e-5  # that the rebuilt model may differ from the pruned one, relative to the largest logit


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRequest:
    """What is asked for.

    Attributes:
        run: Directory of a finished run of torch.
        out: Directory of the new one.
        ratio: Share of the channels of each layer, or of all weights, that is to go.
        epochs: To train on.
        data: Dataset to do so with; ``None``: the run's own.
        validation: Held-out data; ``None``: as the run's, if the data is the run's.
        importance: A key of `IMPORTANCE`.
        steps: In which channels go.
        round_to: What the number of channels left is a multiple of.
        learning_rate: At the start; ``None``: half of the run's.
        unstructured: Single weights instead of channels.
        oldest_ort: Interpreter that has the oldest ONNX Runtime that both models are to run on.
        resume: Go on with what is in `out`.
    """

    run: Path
    out: Path
    ratio: float
    epochs: int
    data: str | None = None
    validation: str | None = None
    importance: str = "group-norm"
    steps: int = 3
    round_to: int = 16
    learning_rate: float | None = None
    unstructured: bool = False
    oldest_ort: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.ratio < 1:
            raise UsageError(f"--ratio is {self.ratio:g}; expected more than 0 and less than 1")
        if self.importance not in IMPORTANCE:
            raise UsageError(f"--importance {self.importance!r} is not known; expected {', '.join(IMPORTANCE)}")
        for option, value in (("--steps", self.steps), ("--round-to", self.round_to)):
            if value < 1:
                raise UsageError(f"{option} is {value}; the least is 1")
        if self.run.absolute() == self.out.absolute():
            raise UsageError(f"--out {self.out} is the run itself; expected another directory")
        if self.validation is not None and self.data is None:
            raise UsageError("--validation goes with --data; the run's own data has its own held-out part")

    def config(self, record: RunRecord) -> TrainingConfig:
        """Return how the model of the run *record* is trained on."""
        before = {**record.config, "image_size": record.image_size}
        changes: dict[str, Any] = {"out": self.out, "epochs": self.epochs, "weights": None}
        changes["learning_rate"] = self.learning_rate or GENTLER * float(before["learning_rate"])
        if self.data is not None:
            changes |= {"data": self.data, "validation": self.validation}
        return TrainingConfig(**{**before, **changes})

    def record(self, parent: RunRecord, widths: Mapping[str, Any]) -> PruningRecord:
        """Return what the new run says of its pruning."""
        return PruningRecord(
            parent_sha256=parent.best_sha256 or "",
            method="unstructured" if self.unstructured else "structured",
            ratio=self.ratio,
            importance=self.importance,
            steps=self.steps,
            round_to=self.round_to,
            widths=dict(widths),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run's model is worth.

    Attributes:
        accuracy: On the held-out data.
        parameters: Elements of weights.
        nonzero: Share of the weights of convolutions and linear layers that are not zero.
        macs: Multiply-accumulate operations of a picture; ``None``: not known.
        size: Of the ONNX file, bytes.
        latency_ms: In ONNX Runtime, one picture on one thread.
        parity: Largest absolute difference from torch.
    """

    accuracy: float
    parameters: int
    nonzero: float
    macs: int | None
    size: int
    latency_ms: float
    parity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What came of it."""

    record: RunRecord
    before: Figures
    after: Figures


def prune(request: PruneRequest) -> Pruned:
    """Prune the model of a run, train it on, and measure both.

    Raises:
        UsageError: The run is of another framework, or nothing can be pruned so.
        TrainingError: There is no finished run, or its model cannot be pruned.
        ExportError: The gate refuses the model, before or after.
        DatasetError: The data cannot be read, or has other classes.
    """
    parent = finished_run(request.run)
    if parent.trainer != FRAMEWORK:
        raise UsageError(f"{request.run} was trained by {parent.trainer}; only runs of {FRAMEWORK} can be pruned")
    oldest = OldestRuntime.open(request.oldest_ort) if request.oldest_ort is not None else None
    trained = load_run(request.run)
    with tempfile.TemporaryDirectory(prefix="vedette-prune-") as scratch:
        work = _Work(request, trained, Path(scratch), oldest)
        with deterministic(int(parent.config["seed"])):
            record = run_training(request.config(parent), work.make, resume=request.resume, amend=work.amend)
        result = work.measured(record)
    figures = {"before": asdict(result.before), "after": asdict(result.after)}
    replace_bytes(request.out / REPORT_FILE, json.dumps(figures, indent=1).encode() + b"\n")
    return result


class _Work:
    """One pruning, under way."""

    def __init__(
        self, request: PruneRequest, trained: TrainedModel, scratch: Path, oldest: OldestRuntime | None
    ) -> None:
        self.request, self.parent, self.scratch, self.oldest = request, trained.record, scratch, oldest
        self._model = trained.model
        self._nonzero = 1 - sparsity(trained.model)
        self._accuracy = 0.0
        self._before: Built | None = None
        self._pruning: PruningRecord | None = None

    def make(self, config: TrainingConfig, data: TrainingData) -> TorchLearner:
        """Return the pruned model, ready to be trained on."""
        if data.labels != self.parent.labels:
            theirs, ours = (", ".join(labels[:MOST_NAMES]) for labels in (data.labels, self.parent.labels))
            raise UsageError(f"the data has other classes than the run: {theirs}; expected {ours}")
        self._before = self._gated(self.request.run, "before")
        learner = TorchLearner(config=config, preprocess=self.parent.preprocess, model=self._model.to(best_device()))
        self._accuracy = judge(learner, data.held_out)[1]
        begun = self._begun()
        if begun is not None:
            self._pruning, model = begun
            learner.model = model.to(best_device())
        else:
            learner = self._cut(learner, data)
            self._pruning = self.request.record(self.parent, self._widths(learner.model))
        if self.request.unstructured:
            return MaskedLearner(config=config, preprocess=learner.preprocess, model=learner.model)
        return TorchLearner(config=config, preprocess=learner.preprocess, model=learner.model)

    def amend(self, record: RunRecord) -> RunRecord:
        """Add to *record* how its model was pruned."""
        return record.model_copy(update={"pruning": self._pruning})

    def measured(self, record: RunRecord) -> Pruned:
        """Put the new run through the gate, and measure it beside the old one."""
        after = self._gated(self.request.out, "after")
        if self._before is None or record.best is None:
            raise AssertionError("a finished run was made, and has a best epoch")
        latency = measure_latency(
            {"before": self._before.path, "after": after.path}, noise(after.session, after.session.batch or 1)
        )
        left = 1 - sparsity(load_run(self.request.out).model)
        return Pruned(
            record=record,
            before=_figures(self._before, self._accuracy, self._nonzero, latency["before"]),
            after=_figures(after, record.best.accuracy, left, latency["after"]),
        )

    def _cut(self, learner: TorchLearner, data: TrainingData) -> TorchLearner:
        request = self.request
        if request.unstructured:
            cut_weights(learner.model, data.image_size, request.ratio)
            return learner
        return cut_channels(
            learner,
            data,
            ratio=request.ratio,
            importance=request.importance,
            steps=request.steps,
            round_to=request.round_to,
        )

    def _begun(self) -> tuple[PruningRecord, nn.Module] | None:
        """Return what an interrupted run in `out` pruned, and its model; its weights come with its checkpoint.

        Raises:
            UsageError: It was pruned in another way.
        """
        checkpoint = self.request.out / str(FRAMEWORKS[FRAMEWORK].last)
        if not self.request.resume or not checkpoint.exists():
            return None
        found = RunRecord.load(self.request.out).pruning
        if found is None or found != self.request.record(self.parent, found.widths):
            raise UsageError(
                f"cannot resume: the run in {self.request.out} was not pruned from {self.request.run} with these "
                "options; use the same, or another --out"
            )
        state = load_tensors(checkpoint)
        if not isinstance(state.get("model"), dict):
            raise TrainingError(f"{checkpoint} is no checkpoint of a run")
        model = self._fresh()
        resize(model, found.widths, state["model"])
        return found, model

    def _widths(self, model: nn.Module) -> dict[str, dict[str, int | tuple[int, ...]]]:
        """Return the widths of *model*, from which it can be rebuilt.

        Raises:
            TrainingError: It cannot.
        """
        fresh = self._fresh()
        widths = changed_widths(fresh, model)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        resize(fresh, widths, state)
        size = self.parent.image_size
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            fresh.load_state_dict(state)
            with torch.no_grad():
                theirs = model.eval()(pixels.to(best_device())).cpu()
                apart = float((fresh.eval()(pixels) - theirs).abs().max())
        except RuntimeError as error:
            raise TrainingError(self._not_rebuilt(" ".join(str(error).split())[:300])) from error
        if not apart <= SAME * max(1.0, float(theirs.abs().max())):
            raise TrainingError(self._not_rebuilt(f"its logits are {apart:.2g} off"))
        return widths

    def _not_rebuilt(self, reason: str) -> str:
        return (
            f"architecture {self.parent.arch!r} cannot be pruned: what its factory makes cannot be given the pruned "
            f"widths: {reason}"
        )

    def _fresh(self) -> nn.Module:
        return build(self.parent.arch, len(self.parent.labels), self.parent.image_size)

    def _gated(self, run: Path, name: str) -> Built:
        """Put *run* through the gate, as an import does."""
        directory = self.scratch / name
        directory.mkdir()
        with load_source(str(run)) as source:
            imported = source
            while True:
                if imported.preprocess is None:
                    raise AssertionError("a run knows its preprocessing")
                try:
                    return build_reference(imported, imported.preprocess, directory, self.oldest)
                except ExportError as error:
                    imported = imported.by_next_route(error)


def _figures(built: Built, accuracy: float, nonzero: float, latency: float) -> Figures:
    complexity = measure_complexity(load_graph(built.path))
    return Figures(
        accuracy=accuracy,
        parameters=complexity.parameters,
        nonzero=nonzero,
        macs=complexity.macs,
        size=built.path.stat().st_size,
        latency_ms=latency,
        parity=built.parity,
    )
