"""Flax on real digits, small: what a run leaves, resumption to the same bits, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training_runs import Configure, configures, interrupted

from controller.errors import TrainingError
from controller.lifecycle.training.flax_architectures import build
from controller.lifecycle.training.flax_learner import FlaxLearner, load_run
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.run import train
from runtime.errors import UsageError

OWN_MODULE = """
from flax import nnx
class Dropping(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(8 * 8 * 8, num_classes, rngs=rngs)
    def __call__(self, pixels):
        features = nnx.relu(self.norm(self.conv(pixels)))
        return self.head(self.dropout(features.reshape(features.shape[0], -1)))
def other_argument(classes): return Dropping(classes, nnx.Rngs(0))
def no_model(num_classes): return num_classes
class Softmaxed(Dropping):
    def __call__(self, pixels): return nnx.softmax(super().__call__(pixels))
def wrong_shape(num_classes): return Dropping(num_classes + 1, nnx.Rngs(0))
"""


@pytest.fixture
def configure(tmp_path: Path, digit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    monkeypatch.syspath_prepend(tmp_path)
    return configures(
        tmp_path,
        "own_flax",
        OWN_MODULE,
        digit_folder,
        framework="flax",
        arch="own_flax:Dropping",
        batch_size=16,
        epochs=3,
        augment="flip,crop",
    )


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def test_resumed_run_ends_with_the_same_bits(configure: Configure) -> None:
    whole, cut = configure("whole", augment="none"), configure("cut", augment="none")
    record = train(whole)
    assert record == RunRecord.load(whole.out)
    assert (record.trainer, record.device) == ("flax", "cpu")
    assert record.framework.startswith("flax 0.")
    assert record.best is not None
    assert record.best.accuracy >= 0.9  # three kinds of digits
    files = ("run.json", "best.npz", "last.npz", "metrics.jsonl", "curves.png", ".lock")
    assert {path.name for path in whole.out.iterdir()} == set(files)

    with interrupted(FlaxLearner, "scores", 2):
        train(cut)
    assert RunRecord.load(cut.out).epochs_done == 1
    with pytest.raises(TrainingError, match="ended after 1 of 3 epochs"):
        load_run(cut.out)
    train(cut, resume=True)
    left, right = arrays(cut.out / "best.npz"), arrays(whole.out / "best.npz")
    assert (
        left.keys()
        == right.keys()
        == {
            *(
                "conv/kernel",
                "conv/bias",
                "norm/scale",
                "norm/bias",
                "norm/mean",
                "norm/var",
                "head/kernel",
                "head/bias",
            )
        }
    )
    assert all(np.array_equal(left[name], right[name]) for name in left)
    begun = configure("begun", weights=str(whole.out / "best.npz"), epochs=1, learning_rate=1e-9)
    train(begun)
    assert np.allclose(arrays(begun.out / "best.npz")["head/kernel"], right["head/kernel"], atol=1e-6)
    ours, theirs = ((run.out / "metrics.jsonl").read_text().splitlines() for run in (cut, whole))
    assert [{**json.loads(row), "seconds": 0} for row in ours] == [{**json.loads(row), "seconds": 0} for row in theirs]


def test_damaged_files_are_refused(configure: Configure) -> None:
    config = configure(epochs=1)
    train(config)
    (config.out / "best.npz").write_bytes(b"other")
    with pytest.raises(TrainingError, match="is not the file that the run wrote"):
        load_run(config.out)
    (config.out / "last.npz").write_bytes(b"other")
    with pytest.raises(TrainingError, match="no usable checkpoint"):
        train(config, resume=True)
    np.savez(config.out / "last.npz", weights=np.zeros(3))
    with pytest.raises(TrainingError, match="no checkpoint of a run; it holds weights"):
        train(config, resume=True)


def test_first_weights_follow_from_the_seed(configure: Configure) -> None:
    configure()
    first, again, other = (build("own_flax:Dropping", 3, 16, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.head.kernel[...], again.head.kernel[...])
    assert not np.array_equal(first.head.kernel[...], other.head.kernel[...])


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("flax-huge", "unknown architecture 'flax-huge'; built in for flax are flax-tiny"),
        ("own_flax:other_argument", r"cannot be called as factory\(num_classes=...\)"),
        ("own_flax:Softmaxed", "gives probabilities, expected logits: leave its softmax out"),
        ("own_flax:no_model", r"made a int, expected a flax.nnx.Module"),
        ("own_flax:wrong_shape", r"gives \(2, 4\) for 2 images, expected \(2, 3\)"),
    ],
)
def test_what_is_no_architecture_is_refused(arch: str, says: str, configure: Configure) -> None:
    configure()
    with pytest.raises(UsageError, match=says):
        build(arch, 3, 16)


def test_pictures_that_do_not_fit_are_refused(configure: Configure) -> None:
    configure()
    with pytest.raises(UsageError, match="does not take images of 20x20 pixels"):
        build("own_flax:Dropping", 3, 20)
