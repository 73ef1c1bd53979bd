"""Runs are pruned, trained on, and measured; what comes out is a run like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import command_line
from old_interpreters import refusing_interpreter
from torch import nn

from controller.errors import TrainingError
from controller.lifecycle.prune import REPORT_FILE, PruneRequest, prune
from controller.lifecycle.training import pruning, torch_learner
from controller.lifecycle.training.checkpoint import load_tensors, save_tensors
from controller.lifecycle.training.data import TrainingData, read_data
from controller.lifecycle.training.loop import judge
from controller.lifecycle.training.pruning import MaskedLearner, cut_channels, cut_weights, sparsity
from controller.lifecycle.training.record import RUN_FILE, RunRecord, TrainingConfig
from controller.lifecycle.training.run import train
from controller.lifecycle.training.torch_learner import TorchLearner, load_run
from runtime.errors import UsageError


@pytest.fixture(scope="module")
def run(digit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "base"
    torch.set_num_threads(1)
    train(TrainingConfig(data=str(digit_folder), arch="tiny", epochs=3, out=out, batch_size=16))
    return out


@pytest.fixture
def learner(run: Path, tmp_path: Path) -> tuple[TorchLearner, TrainingData]:
    """The trained model, and what it may be trained on with."""
    trained = load_run(run)
    config = TrainingConfig(**{**trained.record.config, "out": tmp_path})
    data = read_data(config)
    return TorchLearner(config=config, preprocess=trained.record.preprocess, model=trained.model), data


def widths(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def cut(learner: tuple[TorchLearner, TrainingData], **changes: Any) -> TorchLearner:
    options: dict[str, Any] = {"ratio": 0.3, "importance": "group-norm", "steps": 1, "round_to": 16}
    return cut_channels(*learner, **{**options, **changes})


@pytest.mark.parametrize(
    ("ratio", "round_to", "left"),
    [(0.3, 16, {16, 48, 96}), (0.3, 1, {22, 45, 90}), (0.5, 8, {16, 32, 64}), (0.9, 16, {16})],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_channels_left_are_rounded(
    learner: tuple[TorchLearner, TrainingData], ratio: float, round_to: int, left: set[int], steps: int
) -> None:
    assert set(widths(cut(learner, ratio=ratio, round_to=round_to, steps=steps).model)) == left


@pytest.mark.parametrize("importance", pruning.IMPORTANCE)
def test_the_answer_keeps_all_of_its_classes_and_the_model_still_knows_something(
    learner: tuple[TorchLearner, TrainingData], importance: str
) -> None:
    narrow = cut(learner, importance=importance)
    logits = narrow.scores(learner[1].held_out.images)
    assert logits.shape == (len(learner[1].held_out), 3)
    assert sum(map(torch.numel, narrow.model.parameters())) < 200_000
    assert all(weight.grad is None for weight in narrow.model.parameters())


def test_gradients_leave_the_statistics_of_normalizations_alone(
    learner: tuple[TorchLearner, TrainingData],
) -> None:
    before = {name: value.clone() for name, value in learner[0].model.named_buffers()}
    pruning._gather_gradients(*learner)
    assert all(torch.equal(value, before[name]) for name, value in learner[0].model.named_buffers())
    assert any(weight.grad is not None for weight in learner[0].model.parameters())


def test_nothing_to_cut_is_said(learner: tuple[TorchLearner, TrainingData]) -> None:
    with pytest.raises(UsageError, match="channels rounded to 256 leaves every layer as it is"):
        cut(learner, round_to=256)


class Stubborn(nn.Module):
    """Counts on its widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3)
        self.head = nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).view(len(images), 64, -1).mean(-1))


def test_code_that_counts_on_widths_is_said(learner: tuple[TorchLearner, TrainingData]) -> None:
    stubborn = replace(learner[0], model=Stubborn())
    with pytest.raises(TrainingError, match="must take it from the tensor"):
        cut((stubborn, learner[1]), steps=2)


def test_single_weights_stay_zero_while_the_rest_learns(learner: tuple[TorchLearner, TrainingData]) -> None:
    model = learner[0].model
    head = model.head.weight.clone()
    cut_weights(model, learner[1].image_size, 0.6)
    assert sparsity(model) == pytest.approx(0.6, abs=0.01)
    assert torch.equal(model.head.weight, head)
    assert not [name for name in model.state_dict() if "mask" in name or "orig" in name]
    masked = MaskedLearner(config=learner[0].config, preprocess=learner[0].preprocess, model=model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _learned in masked.fit(pruning.epoch_batches(learner[1], masked.config, 0)):
        pass
    assert sparsity(model) == pytest.approx(0.6, abs=0.01)
    zeros = {name: value == 0 for name, value in before.items() if name.endswith("weight") and value.dim() == 4}
    assert all(bool((dict(model.named_parameters())[name][mask] == 0).all()) for name, mask in zeros.items())
    assert not torch.equal(dict(model.named_parameters())["features.0.weight"], before["features.0.weight"])


def test_a_pruned_run_is_loaded_again_and_pruned_again(run: Path, tmp_path: Path) -> None:
    found = prune(PruneRequest(run=run, out=tmp_path / "once", ratio=0.3, epochs=2, steps=2))
    once = load_run(tmp_path / "once")
    assert set(widths(once.model)) == {16, 48, 96}
    assert found.record.pruning is not None
    assert found.record.pruning.parent_sha256 == RunRecord.load(run).best_sha256
    assert found.record.preprocess == RunRecord.load(run).preprocess
    for name in ("parameters", "macs", "size"):
        assert getattr(found.after, name) < getattr(found.before, name)
    assert found.after.parity < 1e-4
    assert found.before.accuracy == pytest.approx(RunRecord.load(run).best.accuracy)  # type: ignore[union-attr]
    held_out = read_data(TrainingConfig(**{**once.record.config, "out": tmp_path})).held_out
    again = TorchLearner(
        config=TrainingConfig(**{**once.record.config, "out": tmp_path}),
        preprocess=once.record.preprocess,
        model=once.model,
    )
    assert judge(again, held_out)[1] == pytest.approx(found.after.accuracy)
    written = json.loads((tmp_path / "once" / REPORT_FILE).read_text())
    assert written["after"]["macs"] == found.after.macs
    twice = prune(PruneRequest(run=tmp_path / "once", out=tmp_path / "twice", ratio=0.4, epochs=1, steps=1))
    assert set(widths(load_run(tmp_path / "twice").model)) == {16, 32, 64}  # 48 and 96, less two fifths
    assert twice.before.macs == found.after.macs


def test_an_interrupted_pruning_goes_on_to_the_same_bits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = PruneRequest(run=run, out=tmp_path / "whole", ratio=0.3, epochs=3, steps=1)
    whole = prune(request)
    saved = torch_learner.TorchLearner.save_last

    def stopping(self: TorchLearner, path: Path, progress: dict[str, Any]) -> None:
        saved(self, path, progress)
        if progress["epochs_done"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch_learner.TorchLearner, "save_last", stopping)
    parts = replace(request, out=tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        prune(parts)
    monkeypatch.setattr(torch_learner.TorchLearner, "save_last", saved)
    with pytest.raises(UsageError, match=r"was not pruned from .* with these options"):
        prune(replace(parts, ratio=0.5, resume=True))
    resumed = prune(replace(parts, resume=True))
    assert resumed.record.best_sha256 == whole.record.best_sha256
    assert resumed.record.epochs_done == 3
    last, other = (load_tensors(tmp_path / name / "last.pt")["model"] for name in ("whole", "parts"))
    assert last.keys() == other.keys()
    assert all(torch.equal(last[name], other[name]) for name in last)


def test_what_is_written_down_must_fit_the_weights(run: Path, tmp_path: Path) -> None:
    prune(PruneRequest(run=run, out=tmp_path / "out", ratio=0.3, epochs=1, steps=1))
    record = RunRecord.load(tmp_path / "out")
    broken = shutil.copytree(tmp_path / "out", tmp_path / "broken")
    text = json.loads((broken / RUN_FILE).read_text())
    text["pruning"]["widths"]["nobody"] = {"out_channels": 3}
    (broken / RUN_FILE).write_text(json.dumps(text))
    with pytest.raises(TrainingError, match="no module 'nobody'"):
        load_run(broken)
    state = load_tensors(tmp_path / "out" / "best.pt")
    state.pop("head.bias")
    save_tensors(tmp_path / "out" / "best.pt", state)
    with pytest.raises(TrainingError, match=f"SHA-256 must be {record.best_sha256}"):
        load_run(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 0.0}, "--ratio is 0"),
        ({"ratio": 1.0}, "--ratio is 1"),
        ({"importance": "luck"}, "'luck' is not known; expected group-norm, taylor"),
        ({"steps": 0}, "--steps is 0"),
        ({"round_to": 0}, "--round-to is 0"),
        ({"out": Path("run")}, "is the run itself"),
        ({"validation": "digits#test"}, "goes with --data"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        PruneRequest(**{"run": Path("run"), "out": Path("out"), "ratio": 0.3, "epochs": 1, **changes})


def test_weights_that_a_run_began_with_are_not_those_that_its_pruning_begins_with(run: Path, tmp_path: Path) -> None:
    options = {**RunRecord.load(run).config, "weights": str(run / "best.pt"), "epochs": 1, "out": tmp_path / "tuned"}
    tuned = TrainingConfig(**options)
    record = train(tuned)
    request = PruneRequest(run=tuned.out, out=tmp_path / "slim", ratio=0.3, epochs=1, steps=1)
    assert request.config(record).weights is None
    assert prune(request).record.pruning is not None


def test_runs_of_other_frameworks_and_data_of_other_classes_are_refused(
    run: Path, tmp_path: Path, digit_folder: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    text = json.loads((other / RUN_FILE).read_text())
    (other / RUN_FILE).write_text(json.dumps({**text, "trainer": "keras"}))
    with pytest.raises(UsageError, match="was trained by keras"):
        prune(PruneRequest(run=other, out=tmp_path / "out", ratio=0.3, epochs=1))
    fewer = shutil.copytree(digit_folder, tmp_path / "fewer")
    shutil.rmtree(fewer / "digit-2")
    with pytest.raises(UsageError, match="other classes than the run"):
        prune(PruneRequest(run=run, out=tmp_path / "out", ratio=0.3, epochs=1, data=str(fewer)))


def test_the_command_warns_that_single_weights_bring_no_speed_and_import_takes_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vedette: Callable[..., tuple[int, Any, str]] = command_line(capsys)
    options = ("--ratio", "0.5", "--epochs", "1", "--unstructured", "--json")
    code, result, error = vedette("model", "prune", run, "--out", tmp_path / "sparse", *options)
    assert code == 0
    assert "brings no speed" in error
    assert result["after"]["nonzero"] == pytest.approx(0.5, abs=0.01)
    assert result["after"]["macs"] == result["before"]["macs"]
    code, text, error = vedette("model", "prune", run, "--out", tmp_path / "slim", "--ratio", "0.3", "--epochs", "1")
    assert (code, "warning" in error) == (0, False)
    assert "million MACs" in text
    code, result, _ = vedette("model", "import", tmp_path / "slim", "--name", "slim", "--precision", "fp32", "--json")
    assert (code, result["model"]) == (0, "slim@1")
    said = "the run was pruned: about 30% of the channels went, by group-norm, rounded to 16"
    assert said in result["notes"]
    code, text, _ = vedette("model", "card", "slim", "--out", tmp_path / "card.html")
    assert code == 0
    assert said[1:] in (tmp_path / "card.html").read_text()  # a sentence there


def test_a_run_that_the_oldest_runtime_does_not_load_is_not_pruned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--ratio", "0.3", "--epochs", "1", "--oldest-ort", refusing_interpreter(tmp_path))
    code, _, error = command_line(capsys)("model", "prune", run, "--out", tmp_path / "out", *options)
    assert code == 1
    assert "does not run on ONNX Runtime 1.0.0, the oldest that it is to run on: it is too old" in error
    assert not (tmp_path / "out" / REPORT_FILE).exists()


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.cli.prune.PACKAGES", ("torch", "no_such_package"))
    code, _, error = command_line(capsys)(
        "model", "prune", tmp_path, "--out", tmp_path / "o", "--ratio", "0.3", "--epochs", "1"
    )
    assert code == 2
    assert "needs no_such_package, which is not installed: pip install 'vedette[train]'" in error
