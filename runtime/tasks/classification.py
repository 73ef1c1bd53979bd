"""Classification: scores to labels.

Rules:
    * The scores are the output that the manifest names, or the first floating one of shape (N, C) up to trailing
      dimensions of 1, C being the number of labels where one has that; the labels that scikit-learn's graphs
      give beside their probabilities are not needed.
    * `softmax` and `sigmoid` turn logits to probabilities; `none` takes the output as it is. What 8 and 16 bit integers
      mean is in `runtime.tasks.outputs`: they are shares of their range, and no activation applies.
    * One score and two labels: it is that of the second.
    * The raw output decides the order, since probabilities saturate; equal scores are ordered by label
      id, so that the answer does not depend on the machine.
    * ``top_k`` bounds the answers, or with ``multi_label`` the threshold does; the best one is always there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest, Postprocess
from runtime.tasks.base import Head, Outputs
from runtime.tasks.outputs import find_output, shares
from runtime.tasks.results import Classification, LabelScore

__all__ = ["ACTIVATIONS", "HEADS", "decode_classification"]

Scores = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
FEW_CLASSES = 64  # so many are sorted faster than they are looked through for the best


def _softmax(logits: Scores) -> Scores:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


def _sigmoid(logits: Scores) -> Scores:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)  # no overflow at either end


def _none(scores: Scores) -> Scores:
    return scores


ACTIVATIONS: Mapping[str, Callable[[Scores], Scores]] = {"softmax": _softmax, "sigmoid": _sigmoid, "none": _none}

# The score of the first of two classes, where the model gives that of the second alone.
OTHER_OF_TWO: Mapping[str, Callable[[Array], Array]] = {
    "sigmoid": lambda logits: -logits,  # 1 - sigmoid(x) = sigmoid(-x)
    "none": lambda probabilities: 1 - probabilities,
}


def decode_classification(
    outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest
) -> list[Classification]:
    """Return one `Classification` an image.

    Args:
        outputs: Of the graph; the scores are (N, C, 1...).
        sizes: (height, width) of the N images; only their number matters here.
        manifest: Labels, activation, ``top_k``, or ``multi_label`` and ``score_threshold``.

    Raises:
        ModelError: The output's shape does not fit the number of images or labels.
    """
    postprocess = manifest.postprocess
    raw = _scores(outputs, len(sizes), manifest)
    scores = shares(raw)
    activation = postprocess.activation if scores is raw else "none"
    if scores.shape[1] == 1 and len(manifest.labels) == 2:
        scores = _both_of_two(scores, activation, manifest)
    labels = manifest.labels or tuple(f"class_{index}" for index in range(scores.shape[1]))
    if len(labels) != scores.shape[1]:
        raise ModelError(f"{manifest.reference}: {scores.shape[1]} classes in the output, {len(labels)} labels")
    activated = ACTIVATIONS[activation](scores.astype(np.float32))
    most = scores.shape[1] if postprocess.multi_label else postprocess.top_k
    orders = _surest_of_all(scores.astype(np.float64), most)
    return [
        _classification(order[: _count(row[order], postprocess)], row, labels)
        for row, order in zip(activated, orders, strict=True)
    ]


def _scores(outputs: Outputs, images: int, manifest: Manifest) -> Array:
    """Return the scores of *images* images, (N, C), in the graph's own type."""

    def fits(output: Array) -> bool:
        shaped = output.ndim >= 2 and len(output) == images and output.size == np.prod(output.shape[:2])
        return shaped and np.issubdtype(output.dtype, np.number)

    def rank(item: tuple[str, Array]) -> tuple[bool, bool]:
        _, output = item
        floating = np.issubdtype(output.dtype, np.floating)
        return not floating, output.shape[1:2] != (len(manifest.labels),)

    ranked = dict(sorted(outputs.items(), key=rank))
    _, raw = find_output(ranked, manifest, "scores", fits, f"({images}, classes)")
    return raw.reshape(raw.shape[:2])


def _both_of_two(scores: Array, activation: str, manifest: Manifest) -> Array:
    """Return (N, 2) scores of two classes for the (N, 1) *scores* of the second.

    Raises:
        ModelError: The activation is a softmax, which of one score is always 1.
    """
    if activation not in OTHER_OF_TWO:
        raise ModelError(
            f"{manifest.reference}: one score for the labels {', '.join(manifest.labels)} and activation "
            f"{activation!r}; expected {' or '.join(OTHER_OF_TWO)}"
        )
    return np.concatenate([OTHER_OF_TWO[activation](scores), scores], axis=1)


def _surest_of_all(scores: npt.NDArray[np.float64], most: int) -> Iterable[npt.NDArray[np.intp]]:
    """Return `_surest` of each row of *scores* (N, C); where there are few classes, in one go."""
    if scores.shape[1] > FEW_CLASSES:
        return (_surest(row, most) for row in scores)
    return np.argsort(-scores, axis=1, kind="stable")[:, :most]


def _surest(scores: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.intp]:
    """Return the positions of the *most* highest *scores* (C,), highest first; of equals the first comes first."""
    candidates = np.arange(len(scores))
    if most < len(scores):  # sorting a thousand classes for five of them costs more than the rest of the decoding
        least = np.partition(scores, -most)[-most]
        among = np.flatnonzero(scores >= least)
        candidates = among if len(among) >= most else candidates  # NaN is not comparable, and sorted last
    return candidates[np.argsort(-scores[candidates], kind="stable")][:most]


def _count(descending: Scores, postprocess: Postprocess) -> int:
    """Return how many of the *descending* scores are answers."""
    if postprocess.multi_label:
        return max(1, int(np.count_nonzero(descending >= postprocess.score_threshold)))
    return postprocess.top_k


def _classification(order: npt.NDArray[np.intp], row: Scores, labels: Sequence[str]) -> Classification:
    best = zip(order.tolist(), row[order].tolist(), strict=True)
    top = tuple(LabelScore(index, labels[index], score) for index, score in best)
    return Classification(label_id=top[0].label_id, label=top[0].label, score=top[0].score, top_k=top)


HEADS: Mapping[str, Head] = {
    "classification": Head(
        task="classification",
        result=Classification,
        decode=decode_classification,
        what="scores (N, classes), or (N, 1) for the second of two; labels beside them are not needed",
    ),
}
