"""scikit-learn on real digits, small: what a run leaves, how pictures are prepared, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_runs import Configure, configures

from controller.errors import TrainingError
from controller.lifecycle.training.frameworks import epochs_of
from controller.lifecycle.training.learner import Batch
from controller.lifecycle.training.record import RunRecord
from controller.lifecycle.training.run import train
from controller.lifecycle.training.sklearn_architectures import build, preprocess_of
from controller.lifecycle.training.sklearn_learner import SklearnLearner, load_run
from runtime.errors import DatasetError, UsageError

OWN_MODULE = """
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
def bayes(): return GaussianNB()
def needs(depth): return GaussianNB()
def regression(): return LinearRegression()
def nameless(): return make_pipeline(FunctionTransformer(lambda rows: rows), GaussianNB())
def silent(): return VotingClassifier([("a", GaussianNB())])
"""


@pytest.fixture
def configure(tmp_path: Path, digit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    monkeypatch.syspath_prepend(tmp_path)
    return configures(
        tmp_path, "own_sklearn", OWN_MODULE, digit_folder, framework="sklearn", arch="own_sklearn:bayes", epochs=1
    )


@pytest.mark.parametrize("arch", ["hog-svm", "logistic", "forest"])
def test_built_in_architectures_learn_digits(arch: str, configure: Configure) -> None:
    config = configure(arch=arch)
    record = train(config)
    assert record == RunRecord.load(config.out)
    assert (record.trainer, record.device, record.epochs_done) == ("sklearn", "cpu", 1)
    assert record.best is not None
    assert record.best.accuracy == 1  # three kinds of digits
    assert {path.name for path in config.out.iterdir()} == {
        *("run.json", "best.joblib", "metrics.jsonl", "curves.png", ".lock")
    }
    assert record.preprocess.color == "L"  # the pictures have no colour
    assert (record.preprocess.features is not None) == (arch == "hog-svm")
    assert list(load_run(config.out).classes_) == [0, 1, 2]


def test_a_run_follows_from_its_seed(configure: Configure) -> None:
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        config = configure(f"run{number}", arch="forest", seed=seed)
        train(config)
        losses.append(json.loads((config.out / "metrics.jsonl").read_text())["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_coloured_pictures_keep_their_colours_for_pixels_and_lose_them_for_features() -> None:
    assert preprocess_of("forest", 16, gray=False).color == "RGB"
    assert preprocess_of("forest", 16, gray=True).color == "L"
    assert preprocess_of("hog-svm", 16, gray=False).color == "L"
    with pytest.raises(UsageError, match=r"'hog-svm': 7x7 pixels are too few .*--image-size"):
        preprocess_of("hog-svm", 7, gray=True)


def test_colours_reach_the_classifier(configure: Configure, tmp_path: Path) -> None:
    for name, value in (("red", (200, 0, 0)), ("green", (0, 200, 0))):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.full((16, 16, 3), value, np.uint8) // (1 + number % 4)
            Image.fromarray(pixels).save(tmp_path / "colours" / name / f"{number}.png")
    config = configure(data=str(tmp_path / "colours"), arch="forest")
    record = train(config)
    assert record.best is not None
    assert record.best.accuracy == 1
    assert load_run(config.out).n_features_in_ == 16 * 16 * 3


def test_a_class_without_pictures_is_refused_by_name() -> None:
    preprocess = preprocess_of("forest", 8, gray=True)
    learner = SklearnLearner(estimator=build("forest", 0), preprocess=preprocess, labels=("a", "b", "c"))
    batch = Batch(images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.array([0, 2, 0, 2]), rate=1.0)
    with pytest.raises(DatasetError, match="no training image of b;"):
        list(learner.fit(iter([batch])))


def test_a_run_is_read_only_if_it_is_the_one_that_was_written(configure: Configure) -> None:
    config = configure()
    train(config)
    file = config.out / "best.joblib"
    file.write_bytes(file.read_bytes() + b".")
    with pytest.raises(TrainingError, match="is not the file that the run wrote"):
        load_run(config.out)
    with pytest.raises(UsageError, match="cannot be resumed"):
        train(config, resume=True)
    with pytest.raises(UsageError, match="is fitted anew; leave --weights out"):
        train(configure("other", weights=str(file)))


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("svm", "built in for sklearn are hog-svm, logistic, forest"),
        ("own_sklearn:needs", r"cannot be called as factory\(\): missing a required argument: 'depth'"),
        ("own_sklearn:regression", "made a LinearRegression, expected a classifier"),
        ("own_sklearn:nameless", "made a Pipeline that cannot be saved: .*<lambda>.*under a name of their own"),
        ("own_sklearn:silent", "made a VotingClassifier without predict_proba"),
    ],
)
def test_what_is_no_architecture_is_refused(arch: str, says: str, configure: Configure) -> None:
    configure()
    with pytest.raises(UsageError, match=says):
        build(arch, 0)


def test_epochs_are_asked_for_where_there_are_some() -> None:
    assert epochs_of("sklearn", None) == 1
    assert epochs_of("torch", 7) == 7
    with pytest.raises(UsageError, match="leave --epochs out"):
        epochs_of("sklearn", 1)
    with pytest.raises(UsageError, match="'torch' needs --epochs N"):
        epochs_of("torch", None)
