"""Keras on real digits, small: what a run leaves, resumption to the same bits, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_runs import Configure, configures, interrupted

from controller.lifecycle.keras_backend import load_keras
from controller.lifecycle.training.keras_architectures import build
from controller.lifecycle.training.keras_learner import KerasLearner, load_run
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.run import train
from runtime.errors import UsageError

# Keras asks torch for arrays in the way of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

OWN_MODULE = """
import keras
from keras import layers
def dropout(num_classes):
    return keras.Sequential([layers.Conv2D(8, 3, 2), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(),
                             layers.Dropout(0.3), layers.Dense(num_classes)])
def other_argument(classes): return dropout(classes)
def no_model(num_classes): return layers.Dense(num_classes)
def wrong_shape(num_classes): return dropout(num_classes + 1)
def wrong_size(num_classes): return keras.Sequential([layers.Input((5, 5, 3)), layers.Flatten(), layers.Dense(2)])
def probabilities(num_classes): return keras.Sequential([dropout(num_classes), layers.Softmax()])
"""


@pytest.fixture
def configure(tmp_path: Path, digit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    load_keras()
    monkeypatch.syspath_prepend(tmp_path)
    return configures(
        tmp_path,
        "own_keras",
        OWN_MODULE,
        digit_folder,
        framework="keras",
        arch="own_keras:dropout",
        batch_size=16,
        epochs=3,
        augment="flip,crop",
    )


def weights_of(run: Path) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in load_run(run).get_weights()]


def test_tiny_learns_and_leaves_a_file_that_keras_opens(configure: Configure) -> None:
    config = configure(arch="keras-tiny", epochs=6, augment="none")
    record = train(config)
    assert record == RunRecord.load(config.out)
    assert record.trainer == "keras"
    assert record.framework.startswith("keras 3.")
    assert record.best is not None
    assert record.best.accuracy == 1  # three kinds of digits
    opened = load_keras().saving.load_model(config.out / "best.keras")
    assert opened.count_params() == load_run(config.out).count_params()
    assert {path.name for path in config.out.iterdir()} == {
        *("run.json", "best.keras", "last.pt", "metrics.jsonl", "curves.png", ".lock")
    }


def test_resumed_run_ends_with_the_same_bits(configure: Configure) -> None:
    whole, cut = configure("whole"), configure("cut")
    train(whole)
    with interrupted(KerasLearner, "fit", 2):
        train(cut)
    assert RunRecord.load(cut.out).epochs_done == 1
    assert train(cut, resume=True).best == RunRecord.load(whole.out).best
    for left, right in zip(weights_of(whole.out), weights_of(cut.out), strict=True):
        assert np.array_equal(left, right)
    begun = configure("begun", weights=str(whole.out / "best.keras"), epochs=1, learning_rate=1e-9)
    train(begun)
    for left, right in zip(weights_of(whole.out)[:2], weights_of(begun.out)[:2], strict=True):  # kernel and bias
        assert np.allclose(left, right, atol=1e-6)
    with pytest.raises(UsageError, match="framework was 'keras' and is 'torch'"):
        train(configure("cut", framework="torch", arch="tiny"), resume=True)


def test_keras_on_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_keras().backend, "backend", lambda: "jax")
    with pytest.raises(
        UsageError, match="was imported with the backend 'jax' before; Vedette needs KERAS_BACKEND=torch"
    ):
        load_keras()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tiny", "unknown architecture 'tiny'; built in for keras are keras-tiny"),
        ("own_keras:other_argument", "cannot be called as factory"),
        ("own_keras:no_model", "made a Dense, expected a keras.Model"),
        ("own_keras:wrong_shape", r"gives \(2, 4\) for 2 images, expected \(2, 3\)"),
        ("own_keras:wrong_size", "does not take images of 16x16 pixels"),
        ("own_keras:probabilities", "gives probabilities, expected logits: leave its softmax out"),
    ],
)
def test_architecture_that_does_not_fit_is_refused(configure: Configure, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build(name, 3, 16)
