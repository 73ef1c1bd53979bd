"""Classification: scores to labels.

Rules:
    * The first output holds the scores, (N, C) up to trailing dimensions of 1.
    * `softmax` and `sigmoid` turn logits to probabilities; `none` takes the output as it is.
    * The raw output decides the order, since probabilities saturate; equal scores are ordered by label
      id, so that the answer does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.tasks.base import Head, Outputs
from runtime.tasks.results import Classification, LabelScore

__all__ = ["ACTIVATIONS", "HEADS", "decode_classification"]

Scores = npt.NDArray[np.float32]


def _softmax(logits: Scores) -> Scores:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


def _sigmoid(logits: Scores) -> Scores:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)  # no overflow at either end


def _none(scores: Scores) -> Scores:
    return scores


ACTIVATIONS: Mapping[str, Callable[[Scores], Scores]] = {"softmax": _softmax, "sigmoid": _sigmoid, "none": _none}


def decode_classification(
    outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest
) -> list[Classification]:
    """Return one `Classification` an image.

    Args:
        outputs: Of the graph; the first is (N, C, 1...).
        sizes: (height, width) of the N images; only their number matters here.
        manifest: Labels, activation and ``top_k``.

    Raises:
        ModelError: The output's shape does not fit the number of images or labels.
    """
    raw = next(iter(outputs.values()))
    scores = raw.reshape(raw.shape[:2]) if raw.ndim > 2 and raw.size == np.prod(raw.shape[:2]) else raw
    if scores.ndim != 2 or len(scores) != len(sizes):
        raise ModelError(f"{manifest.reference}: output has shape {raw.shape}; expected ({len(sizes)}, classes)")
    labels = manifest.labels or tuple(f"class_{index}" for index in range(scores.shape[1]))
    if len(labels) != scores.shape[1]:
        raise ModelError(f"{manifest.reference}: {scores.shape[1]} classes in the output, {len(labels)} labels")
    activated = ACTIVATIONS[manifest.postprocess.activation](scores.astype(np.float32))
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, : manifest.postprocess.top_k]
    return [
        _classification([LabelScore(int(index), labels[index], float(row[index])) for index in order])
        for row, order in zip(activated, best, strict=True)
    ]


def _classification(top: list[LabelScore]) -> Classification:
    return Classification(label_id=top[0].label_id, label=top[0].label, score=top[0].score, top_k=tuple(top))


HEADS: Mapping[str, Head] = {
    "classification": Head(
        task="classification",
        result=Classification,
        decode=decode_classification,
        what="scores (N, classes)",
    ),
}
