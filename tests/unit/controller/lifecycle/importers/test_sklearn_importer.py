"""Classifiers of scikit-learn become graphs of scores: of pictures or of features, with the estimator's own answers."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from controller.errors import ExportError
from controller.lifecycle.importers.sklearn_model import SklearnSource, open_built, open_source
from controller.lifecycle.importers.source import Job
from runtime.errors import UsageError
from runtime.files import hash_file

SOURCE = f"{__name__}:make"  # whose factory is not called: the tests open what it would make
JOB = Job(source=SOURCE, image_size=(8, 8), color="L")
VOTE = [("a", GaussianNB()), ("b", DecisionTreeClassifier(max_depth=3, random_state=0))]

ESTIMATORS: dict[str, Any] = {
    "probabilities": LogisticRegression(max_iter=20),
    "decisions": LinearSVC(max_iter=50),
    "a machine of pairs": SVC(),
    "a machine with probabilities behind steps": make_pipeline(StandardScaler(), PCA(20, random_state=0), SVC()),
    "the best of a search": GridSearchCV(RidgeClassifier(), {"alpha": [1.0, 2.0]}, cv=2),
    "trees": RandomForestClassifier(5, random_state=0),
    "boosted trees": HistGradientBoostingClassifier(max_iter=2),
    "neighbours": KNeighborsClassifier(3),
    "a vote": VotingClassifier(VOTE, voting="soft"),
}
COMPARING = {"trees", "boosted trees", "neighbours", "a vote"}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return (pixels[:500] / 16).astype(np.float32), labels[:500]


def fitted(estimator: Any, digits: tuple[np.ndarray, np.ndarray], classes: int = 10) -> Any:
    pixels, labels = digits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a solver could go on
        return clone(estimator).fit(pixels[labels < classes], labels[labels < classes])


def assert_graph_answers_as(source: SklearnSource, pictures: np.ndarray) -> onnx.ModelProto:
    graph = source.convert("skl2onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert {(one.domain, one.version) for one in graph.opset_import} == {("", 21), ("ai.onnx.ml", 3)}
    assert len(graph.opset_import) == 2
    assert graph.ir_version == 10
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["scores"]
    for count in (1, 3, 60):
        batch = pictures[:count]
        (found,), (expected,) = session.run(None, {session.get_inputs()[0].name: batch}), source.run(batch)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    return graph


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_takes_pictures_and_gives_scores(
    name: str, classes: int, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    estimator = fitted(ESTIMATORS[name], digits, classes)
    source = open_built(estimator, JOB)
    pictures = digits[0].reshape(-1, 8, 8, 1)
    assert_graph_answers_as(source, pictures)
    answers = source.run(pictures[:60])[0].argmax(axis=1)
    assert np.array_equal(estimator.classes_[answers], estimator.predict(digits[0][:60]))
    assert source.facts.compares_labels == (name in COMPARING)
    assert source.facts.labels is None
    assert source.facts.task == "classification"
    assert source.facts.source_sha256 == hash_file(Path(__file__))  # of the factory's module, not of scikit-learn's


def test_an_estimator_of_features_keeps_its_matrix(digits: tuple[np.ndarray, np.ndarray]) -> None:
    source = open_built(fitted(LinearSVC(max_iter=50), digits), Job(source=SOURCE, features=True))
    graph = assert_graph_answers_as(source, digits[0])
    assert [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == ["N", 64]


@pytest.mark.parametrize(
    ("length", "job", "shape"),
    [
        (64, Job(source=SOURCE), ["N", 8, 8, 1]),  # no square of three channels: gray
        (48, Job(source=SOURCE), ["N", 4, 4, 3]),
        (60, Job(source=SOURCE, image_size=(4, 5)), ["N", 4, 5, 3]),
        (60, Job(source=SOURCE, image_size=(6, 10)), ["N", 6, 10, 1]),
    ],
)
def test_the_pictures_are_those_that_have_as_many_numbers(length: int, job: Job, shape: list[Any]) -> None:
    rows = np.random.default_rng(0).normal(size=(20, length))
    graph = open_built(GaussianNB().fit(rows, np.arange(20) % 2), job).convert("skl2onnx")
    assert [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == shape


def test_names_of_classes_become_labels(digits: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, labels = digits
    estimator = GaussianNB().fit(pixels, np.where(labels < 5, "low", "high"))
    assert open_built(estimator, JOB).facts.labels == ("high", "low")


@pytest.mark.parametrize(
    ("model", "job", "says"),
    [
        (LinearRegression(), JOB, "expected a classifier"),
        (Path(), JOB, "expected a classifier"),
        (GaussianNB(), JOB, "not fitted"),
        (VotingClassifier(VOTE), JOB, "gives labels alone"),
        (GaussianNB(), Job(source=SOURCE, image_size=(9, 9)), "64 numbers; pictures of 9x9 pixels have 81"),
        (GaussianNB(), Job(source=SOURCE, weights=Path("w")), "leave --weights out"),
    ],
)
def test_what_is_no_fitted_classifier_of_such_pictures_is_refused(
    model: Any, job: Job, says: str, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    fits = hasattr(model, "get_params") and says != "not fitted"  # what is no estimator cannot be
    with pytest.raises(UsageError, match=says):
        open_built(fitted(model, digits) if fits else model, job)


def test_numbers_that_are_no_square_picture_are_refused() -> None:
    estimator = GaussianNB().fit(np.random.default_rng(0).normal(size=(20, 60)), np.arange(20) % 2)
    with pytest.raises(UsageError, match="60 numbers, which are no square picture"):
        open_built(estimator, Job(source=SOURCE))


def test_a_step_that_cannot_be_converted_is_refused_with_the_way_out(digits: tuple[np.ndarray, np.ndarray]) -> None:
    pipeline = make_pipeline(FunctionTransformer(np.sqrt), GaussianNB())
    with pytest.raises(ExportError, match="belongs into the preprocessing"):
        open_built(fitted(pipeline, digits), JOB).convert("skl2onnx")


class Evil:
    """Leaves a file behind when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_read_only_where_a_person_vouches_for_it(
    digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    file, left = tmp_path / "evil.pkl", tmp_path / "left"
    file.write_bytes(pickle.dumps(Evil(left)))
    with pytest.raises(UsageError, match="--trust-pickle"):
        open_source(Job(source=str(file)))
    assert not left.exists()
    with pytest.raises(UsageError, match="expected a classifier"):
        open_source(Job(source=str(file), trusted=True))
    assert left.exists()  # so the refusal above was what kept it from running
    joblib.dump(fitted(GaussianNB(), digits), tmp_path / "good.joblib")
    opened = open_source(Job(source=str(tmp_path / "good.joblib"), trusted=True))
    assert opened.run(digits[0][:5].reshape(-1, 8, 8, 1))[0].shape == (5, 10)
    (tmp_path / "no.joblib").write_bytes(b"no pickle")
    with pytest.raises(ExportError, match="cannot be read by joblib"):
        open_source(Job(source=str(tmp_path / "no.joblib"), trusted=True))


def test_what_scikit_learn_says_of_a_file_of_another_version_is_told(
    digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sklearn.base.__version__", "0.99.0")
    joblib.dump(fitted(GaussianNB(), digits), tmp_path / "old.joblib")
    monkeypatch.undo()
    opened = open_source(Job(source=str(tmp_path / "old.joblib"), trusted=True))
    assert issubclass(InconsistentVersionWarning, UserWarning)
    assert "0.99.0" in opened.facts.warnings[0]
