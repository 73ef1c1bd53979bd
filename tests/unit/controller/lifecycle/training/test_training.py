"""The loop on real digits, small: determinism, resumption, what a run leaves, what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import Configure, configures, interrupted

from controller.errors import ExportError, TrainingError
from controller.lifecycle.training import frameworks
from controller.lifecycle.training.checkpoint import load_tensors
from controller.lifecycle.training.data import cosine
from controller.lifecycle.training.frameworks import FRAMEWORKS
from controller.lifecycle.training.loop import Trainer, cross_entropy
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.run import train
from controller.lifecycle.training.torch_learner import load_run
from runtime.errors import DatasetError, HomeError, UsageError
from runtime.files import exclusive_lock

DROPOUT_MODEL = """
from torch import nn
def make(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
                         nn.Linear(8 * 7 * 7, num_classes))
"""


@pytest.fixture
def configure(tmp_path: Path, digit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    monkeypatch.syspath_prepend(tmp_path)
    return configures(
        tmp_path,
        "dropout_model",
        DROPOUT_MODEL,
        digit_folder,
        arch="dropout_model:make",
        epochs=4,
        batch_size=16,
        augment="flip,crop",
    )


def weights_equal(one: Path, other: Path) -> bool:
    left, right = load_tensors(one), load_tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_cosine_falls_from_one_to_zero() -> None:
    shares = [cosine(step, 10) for step in range(11)]
    assert shares[0] == 1
    assert shares[5] == pytest.approx(0.5)
    assert shares[10] == pytest.approx(0)
    assert shares == sorted(shares, reverse=True)


def test_cross_entropy_is_that_of_torch_even_where_scores_are_large() -> None:
    scores = np.random.default_rng(2).normal(0, 300, (5, 4)).astype(np.float32)
    labels = np.array([3, 0, 1, 1, 2])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels), reduction="sum")
    assert cross_entropy(scores, labels) == pytest.approx(float(expected), rel=1e-6)


def test_run_leaves_record_metrics_curves_and_best_weights(configure: Configure) -> None:
    config = configure()
    record = train(config)
    assert record.finished
    assert record == RunRecord.load(config.out)
    assert record.labels == ("digit-0", "digit-1", "digit-2")
    assert record.image_size == 16
    assert record.train.rows + record.held_out.rows == 96
    metrics = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4]
    best = max(metrics, key=lambda row: (row["accuracy"], -row["loss"]))
    assert record.best is not None
    assert record.best.epoch == best["epoch"]
    with Image.open(config.out / "curves.png") as curves:
        assert curves.width > 400
    trained = load_run(config.out)
    assert not trained.model.training


def test_same_seed_gives_the_same_bits_and_another_does_not(configure: Configure) -> None:
    one, two, other = configure("one"), configure("two"), configure("other", seed=1)
    for config in (one, two, other):
        train(config)
    assert weights_equal(one.out / "best.pt", two.out / "best.pt")
    assert not weights_equal(one.out / "best.pt", other.out / "best.pt")


def test_resumed_run_ends_with_the_same_bits(configure: Configure) -> None:
    whole, cut = configure("whole"), configure("cut")
    train(whole)
    with interrupted(Trainer, "_fit", 3):
        train(cut)
    assert RunRecord.load(cut.out).epochs_done == 2
    with pytest.raises(TrainingError, match="ended after 2 of 4 epochs"):
        load_run(cut.out)
    torch.manual_seed(99)  # what happened in between must not matter
    record = train(cut, resume=True)
    for file in ("best.pt", "last.pt"):
        left, right = (torch.load(c.out / file, weights_only=True) for c in (whole, cut))
        left, right = (left["model"], right["model"]) if file == "last.pt" else (left, right)
        assert all(torch.equal(left[name], right[name]) for name in left), file
    assert record.best == RunRecord.load(whole.out).best


def test_resume_refuses_another_configuration(configure: Configure) -> None:
    config = configure(epochs=1)
    train(config)
    with pytest.raises(UsageError, match=r"cannot resume: epochs was 1 and is 3; learning_rate was"):
        train(replace(config, epochs=3, learning_rate=0.5), resume=True)
    with pytest.raises(UsageError, match="holds a training run already"):
        train(config)


def test_finished_run_resumes_to_itself(configure: Configure) -> None:
    config = configure(epochs=1)
    first = train(config)
    assert train(config, resume=True).best == first.best


def test_damaged_checkpoint_and_weights_are_refused(configure: Configure) -> None:
    config = configure(epochs=1)
    train(config)
    (config.out / "last.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(TrainingError, match=r"last\.pt is no usable checkpoint"):
        train(config, resume=True)
    (config.out / "best.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"best\.pt is not the file that the run wrote"):
        load_run(config.out)


def test_two_trainings_cannot_share_a_directory(configure: Configure) -> None:
    config = configure()
    with exclusive_lock(config.out / ".lock", "x"), pytest.raises(HomeError, match="is in use by process"):
        train(config)


def test_a_run_begins_with_the_weights_that_it_is_given(configure: Configure) -> None:
    taught = configure("taught", augment="none")
    knows = train(taught).best
    gentle = {"learning_rate": 1e-9, "augment": "none", "epochs": 1}
    resumed = configure("more", weights=str(taught.out / "best.pt"), **gentle)
    learned, ignorant = train(resumed), train(configure("anew", **gentle))
    assert knows is not None
    assert learned.best is not None
    assert ignorant.best is not None
    assert knows.accuracy - 0.1 < learned.best.accuracy
    assert ignorant.best.accuracy < knows.accuracy - 0.2
    assert train(resumed, resume=True).best == learned.best
    with pytest.raises(UsageError, match=r"cannot resume: weights was '.*best\.pt' and is None"):
        train(replace(resumed, weights=None), resume=True)
    with pytest.raises(ExportError, match=r"best\.pt does not fit ResNet: "):
        train(configure("other", arch="tiny", **{**gentle, "weights": resumed.weights}))


def test_diverging_training_is_an_error(configure: Configure) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf)"):
        train(configure(learning_rate=1e30, augment="none"))


def test_unusable_images_are_counted_and_left_out(configure: Configure, digit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(digit_folder, folder)
    (folder / "digit-0" / "zz.png").write_bytes(b"")
    (folder / "digit-1" / "zz.png").write_bytes(b"no picture at all")
    record = train(configure(data=str(folder), epochs=1, validation=str(digit_folder)))
    assert record.train.skipped == {"empty": 1, "not_an_image": 1}
    assert record.train.rows == 96


def test_dataset_of_one_class_is_refused(configure: Configure, tmp_path: Path) -> None:
    folder = tmp_path / "one" / "only"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(DatasetError, match="2 images and 2 classes are the least"):
        train(configure(data=str(folder.parent)))


def test_unknown_framework_is_refused_and_a_missing_one_says_what_brings_it(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown framework 'caffe'; expected torch"):
        train(configure(framework="caffe"))
    absent = replace(FRAMEWORKS["torch"], packages=("torch", "no_such_package"), extra="some")
    monkeypatch.setattr(frameworks, "FRAMEWORKS", {"torch": absent})
    with pytest.raises(
        UsageError, match=r"needs no_such_package, which is not installed: pip install 'vedette\[some\]'"
    ):
        train(configure())


def test_framework_that_cannot_resume_says_so(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "FRAMEWORKS", {"torch": replace(FRAMEWORKS["torch"], last=None)})
    with pytest.raises(UsageError, match="a run of framework 'torch' cannot be resumed; leave --resume out"):
        train(configure(), resume=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 0}, "epochs is 0; the least is 1"),
        ({"batch_size": 1}, "batch size is 1; the least is 2"),
        ({"learning_rate": 0.0}, "learning rate is 0.0"),
        ({"image_size": 2}, "image size is 2; the least is 4"),
    ],
)
def test_senseless_options_are_refused(configure: Configure, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        configure(**changes)


def test_a_single_picture_left_over_joins_the_last_batch(configure: Configure, digit_folder: Path) -> None:
    # 96 images for training in batches of 19: five of 19 and one picture, which batch normalization could not use alone
    record = train(configure(batch_size=19, epochs=1, validation=str(digit_folder), arch="tiny", image_size=4))
    assert record.train.rows == 96
    assert record.finished
