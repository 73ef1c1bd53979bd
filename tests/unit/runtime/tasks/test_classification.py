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
from runtime.tasks.classification import ACTIVATIONS, _surest, decode_classification

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


@pytest.mark.parametrize(
    ("dtype", "raw", "score"),
    [
        (np.int8, [-128, 72, 127, -127], 255 / 256),
        (np.uint8, [0, 200, 255, 1], 255 / 256),
        (np.int16, [0, 1000, 16384, 2], 0.5),
        (np.uint16, [0, 1000, 16384, 2], 0.25),
    ],
)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_quantized_scores_are_shares_of_their_range(
    manifest: Manifest, dtype: type, raw: list[int], score: float, activation: str
) -> None:
    # LiteRT's quantization specification: a softmax in int8 has the step 1/256 and the zero point -128.
    scores = np.array([raw], dtype)
    (found,) = decode_classification({"scores": scores}, [(8, 8)], changed(manifest, activation=activation))
    assert [one.label for one in found.top_k] == ["c", "b", "d", "a"]
    assert (found.label, found.score) == ("c", score)
    assert found.top_k[-1].score == 0


SCIKIT = {
    "label": np.array(["c", "a"]),
    "probabilities": np.array([[0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1]], np.float32),
}


@pytest.mark.parametrize("labels", [np.array([2, 0], np.int64), SCIKIT["label"], np.array([[2], [0]], np.int64)])
@pytest.mark.parametrize("turned", [False, True])
def test_of_labels_and_probabilities_the_probabilities_are_the_scores(
    manifest: Manifest, labels: np.ndarray, turned: bool
) -> None:
    outputs = SCIKIT | {"label": labels}
    if turned:
        outputs = dict(reversed(outputs.items()))
    first, second = decode_classification(outputs, [(8, 8)] * 2, changed(manifest, activation="none"))
    assert (first.label, first.score, second.label, second.score) == (
        "c",
        pytest.approx(0.6),
        "a",
        pytest.approx(0.7),
    )


def test_of_several_outputs_the_one_with_as_many_scores_as_labels_counts(manifest: Manifest) -> None:
    outputs = {"features": np.ones((1, 9), np.float32), "logits": np.eye(4, dtype=np.float32)[3:]}
    assert decode_classification(outputs, [(8, 8)], manifest)[0].label == "d"


def test_the_output_that_the_manifest_names_counts(manifest: Manifest) -> None:
    outputs = {"main": np.eye(4, dtype=np.float32)[:1], "auxiliary": np.eye(4, dtype=np.float32)[1:2]}
    assert decode_classification(outputs, [(8, 8)], manifest)[0].label == "a"
    named = changed(manifest, outputs={"scores": "auxiliary"})
    assert decode_classification(outputs, [(8, 8)], named)[0].label == "b"
    absent = changed(manifest, outputs={"scores": "other"})
    with pytest.raises(
        ModelError, match=r"names output 'other' for scores; the graph gives main float32 \[1, 4\], aux"
    ):
        decode_classification(outputs, [(8, 8)], absent)


@pytest.mark.parametrize(("activation", "raw", "score"), [("sigmoid", 1.0, 0.7310586), ("none", 0.8, 0.8)])
def test_one_score_and_two_labels_is_that_of_the_second(
    manifest: Manifest, activation: str, raw: float, score: float
) -> None:
    binary = changed(manifest, activation=activation).model_copy(update={"labels": ("no", "yes")})
    yes, no = decode(binary, [[raw], [1 - raw if activation == "none" else -raw]])
    assert yes.top_k == (LabelScore(1, "yes", pytest.approx(score)), LabelScore(0, "no", pytest.approx(1 - score)))
    assert no.top_k == (LabelScore(0, "no", pytest.approx(score)), LabelScore(1, "yes", pytest.approx(1 - score)))


def test_a_softmax_of_one_score_is_refused(manifest: Manifest) -> None:
    binary = changed(manifest, activation="softmax").model_copy(update={"labels": ("no", "yes")})
    with pytest.raises(ModelError, match="one score for the labels no, yes and activation 'softmax'; expected sigmoid"):
        decode(binary, [[1.0]])


def test_with_multi_label_every_class_above_the_threshold_is_an_answer(manifest: Manifest) -> None:
    many = changed(manifest, activation="sigmoid", multi_label=True, score_threshold=0.5, top_k=1)
    found = decode(many, [[2.0, -2.0, 0.0, 3.0], [-3.0, -2.0, -5.0, -4.0]])
    assert [[one.label for one in each.top_k] for each in found] == [["d", "a", "c"], ["b"]]


@pytest.mark.parametrize(
    ("shape", "number", "text"),
    [
        ((2, 5), 2, r"probe@1: 5 classes in the output, 4 labels"),
        ((3, 4), 2, r"probe@1: no output fits scores: found scores float32 \[3, 4\]; expected \(2, classes\)"),
        ((4,), 1, r"found scores float32 \[4\]"),
        ((1, 4, 7, 7), 1, r"found scores float32 \[1, 4, 7, 7\]"),
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


@given(
    st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5, 2.0, np.inf, np.nan]), min_size=1, max_size=40),
    st.integers(1, 45),
)
def test_the_surest_are_those_of_a_stable_sort(values: list[float], most: int) -> None:
    scores = np.array(values)
    np.testing.assert_array_equal(_surest(scores, most), np.argsort(-scores, kind="stable")[:most])
