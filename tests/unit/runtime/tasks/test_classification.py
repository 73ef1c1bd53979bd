"""Scores to labels: stable, ordered, and refused where they fit nothing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.artifact import Artifact
from runtime.errors import ModelError
from runtime.manifest import Manifest, Postprocess
from runtime.probe import probe_root
from runtime.tasks import HEADS, Classification, LabelScore, head_of
from runtime.tasks.classification import ACTIVATIONS, decode_classification

logits = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-1e4, 1e4, width=32))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """Of four labels: a, b, c, d."""
    return Artifact.open(probe_root()).manifest


def changed(manifest: Manifest, **postprocess: Any) -> Manifest:
    return manifest.model_copy(update={"postprocess": Postprocess(kind="classification", **postprocess)})


def decode(manifest: Manifest, scores: Any, number: int | None = None) -> list[Classification]:
    array = np.asarray(scores, dtype=np.float32)
    return decode_classification({"scores": array}, [(8, 8)] * (len(array) if number is None else number), manifest)


@given(logits)
def test_softmax_is_a_distribution_that_keeps_the_order(scores: np.ndarray) -> None:
    found = ACTIVATIONS["softmax"](scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.take_along_axis(found, scores.argmax(axis=1)[:, None], axis=1)[:, 0] == found.max(axis=1)).all()
    np.testing.assert_allclose(ACTIVATIONS["softmax"](scores + np.float32(64)), found, atol=1e-2)


@given(logits)
def test_sigmoid_is_symmetric_and_overflows_nowhere(scores: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ACTIVATIONS["sigmoid"](scores)
    np.testing.assert_allclose(found + ACTIVATIONS["sigmoid"](-scores), 1, atol=1e-6)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-scores.astype(np.float64).clip(-700, 700))), atol=1e-6)


@given(logits)
def test_the_best_comes_first_whatever_the_activation(manifest: Manifest, scores: np.ndarray) -> None:
    for activation in ACTIVATIONS:
        for row, found in zip(scores, decode(changed(manifest, activation=activation, top_k=4), scores), strict=True):
            expected = sorted(range(4), key=lambda index: (-row[index], index))
            assert [one.label_id for one in found.top_k] == expected
            assert [one.score for one in found.top_k] == sorted((one.score for one in found.top_k), reverse=True)
            assert (found.label_id, found.label, found.score) == (
                found.top_k[0].label_id,
                found.top_k[0].label,
                found.top_k[0].score,
            )


def test_equal_scores_are_ordered_by_label_id(manifest: Manifest) -> None:
    (found,) = decode(changed(manifest, activation="none", top_k=3), [[0.1, 0.4, 0.1, 0.4]])
    assert found.top_k == (
        LabelScore(1, "b", pytest.approx(0.4)),
        LabelScore(3, "d", pytest.approx(0.4)),
        LabelScore(0, "a", pytest.approx(0.1)),
    )


def test_probabilities_that_saturate_do_not_hide_the_better_logit(manifest: Manifest) -> None:
    for activation in ("sigmoid", "softmax"):
        (found,) = decode(changed(manifest, activation=activation), [[-500, 200, 300, -400]])
        assert [one.label for one in found.top_k] == ["c", "b", "d", "a"], activation


def test_top_k_is_at_most_what_there_is(manifest: Manifest) -> None:
    assert len(decode(changed(manifest, top_k=50), np.eye(4))[0].top_k) == 4
    assert len(decode(changed(manifest, top_k=2), np.eye(4))[0].top_k) == 2


def test_trailing_dimensions_of_one_are_dropped(manifest: Manifest) -> None:
    scores = np.eye(4, dtype=np.float32)[:2]
    assert decode(manifest, scores.reshape(2, 4, 1, 1)) == decode(manifest, scores)


def test_without_labels_there_are_numbers(manifest: Manifest) -> None:
    assert decode(manifest.model_copy(update={"labels": ()}), [[0, 0, 1]])[0].label == "class_2"


def test_integer_scores_are_taken(manifest: Manifest) -> None:
    scores = np.array([[0, 200, 255, 1]], np.uint8)
    (found,) = decode_classification({"scores": scores}, [(8, 8)], changed(manifest, activation="none"))
    assert (found.label, found.score) == ("c", 255.0)


@pytest.mark.parametrize(
    ("shape", "number", "text"),
    [
        ((2, 5), 2, r"probe@1: 5 classes in the output, 4 labels"),
        ((3, 4), 2, r"probe@1: output has shape \(3, 4\); expected \(2, classes\)"),
        ((4,), 1, r"output has shape \(4,\)"),
        ((1, 4, 7, 7), 1, r"output has shape \(1, 4, 7, 7\)"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(
    manifest: Manifest, shape: tuple[int, ...], number: int, text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        decode(manifest, np.zeros(shape), number)


def test_the_head_is_found_by_its_name(manifest: Manifest) -> None:
    assert head_of(manifest) is HEADS["classification"]
    unknown = manifest.model_copy(update={"postprocess": Postprocess(kind="poetry")})
    with pytest.raises(ModelError, match="probe@1: postprocess kind 'poetry' is not one of classification"):
        head_of(unknown)
