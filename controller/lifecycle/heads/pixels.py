"""Answers for every pixel, and for the picture as a whole.

What tells them apart:
    * Class scores have one channel a class, (N, C, h, w) or (N, h, w, C); class ids are integers without channels.
    * One channel of floating point numbers is a matte, or the foreground where there are names for it: one, or
      two with the background's. Of several mattes, as in U-2-Net, the first is the final one.
    * A vector is class scores or an embedding: nothing but the task says which. Scores are probabilities where the
      graph ends in a softmax or a sigmoid, or where each picture's sum up to 1.
    * MoveNet gives (N, 1, K, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from controller.lifecycle.heads.base import Certainty, Evidence, Fit, Seen
from controller.lifecycle.heads.numbers import are_probabilities
from controller.lifecycle.heads.yolo import keypoint_names

__all__ = ["RULES"]

BY_LAST_OPERATOR: Mapping[str, str] = {
    "Softmax": "none",
    "Sigmoid": "none",
    "LogSoftmax": "softmax",  # softmax of log-probabilities gives the probabilities back
    "TreeEnsembleClassifier": "none",
    "Normalizer": "none",  # what scikit-learn's classifiers end in
}
"""What makes probabilities of a classifier's scores, by the operator that it ends in."""

MORE_LIKELY_THAN_NOT: Mapping[str, float] = {"score_threshold": 0.5}  # of a pixel that stands against no other class
MATTES = ("pha", "alpha", "matte")  # as matting models call them
MOST_SHRUNK = 32  # times smaller than the input that a map of pixels is at most


def _first(outputs: Sequence[Seen], *names: str) -> tuple[Seen, tuple[str, ...]]:
    """Return the one of *outputs* that is called like one of *names*, else the first, and what to say of that."""
    chosen = next((seen for seen in outputs if seen.called(*names)), outputs[0])
    others = ", ".join(repr(seen.name) for seen in outputs if seen is not chosen)
    return chosen, (f"output {chosen.name!r} is used; {others} would fit too",) if others else ()


def _covers(size: tuple[int, ...], evidence: Evidence) -> bool:
    """Whether a map of *size* (height, width) has the proportions of the input, and is not much smaller."""
    height, width = size
    proportions = abs(height * evidence.width - width * evidence.height) <= evidence.width + evidence.height
    return proportions and evidence.height <= height * MOST_SHRUNK


def _maps(evidence: Evidence) -> Iterator[tuple[Seen, int]]:
    """Yield (output, channels) of every map of pixels; one without channels has 1."""
    for seen in evidence.outputs:
        if seen.values.ndim not in {3, 4} or seen.shape[0] != evidence.batch:
            continue
        if seen.values.ndim == 3:
            if _covers(seen.shape[1:], evidence):
                yield seen, 1
        elif _covers(seen.shape[2:], evidence):
            yield seen, seen.shape[1]
        elif _covers(seen.shape[1:3], evidence):
            yield seen, seen.shape[3]


def _semantic(evidence: Evidence) -> Fit | None:
    known = evidence.classes
    ids = [seen for seen, channels in _maps(evidence) if seen.is_integer and channels == 1]
    if ids:
        seen, notes = _first(ids)
        return Fit(
            outputs={"scores": seen.name},
            classes=known,
            fields={"activation": "none"},
            seen=f"{seen} of class ids",
            certainty=Certainty.NUMBERS,
            notes=notes,
        )
    channels_of = {
        seen.name: channels
        for seen, channels in _maps(evidence)
        if seen.is_scores and channels > 1 and known in {None, channels, channels + 1}
    }
    fitting = [seen for seen in evidence.outputs if seen.name in channels_of]
    if not fitting:
        return _foreground(evidence)
    seen, notes = _first(fitting, "logits", "score")
    channels = channels_of[seen.name]
    beside = known == channels + 1  # the background is what no channel stands for
    return Fit(
        outputs={"scores": seen.name},
        classes=known if beside else channels,
        fields={"activation": _activation(seen), **MORE_LIKELY_THAN_NOT} if beside else {"activation": "softmax"},
        seen=str(seen),
        certainty=Certainty.SHAPE,
        notes=notes,
    )


def _foreground(evidence: Evidence) -> Fit | None:
    """Return how one channel is the class that there are names for: one, or two with that of the background."""
    channels = [seen for seen, channels in _maps(evidence) if seen.is_float and channels == 1]
    if not channels or evidence.classes not in {1, 2}:
        return None
    seen, notes = _first(channels)
    return Fit(
        outputs={"scores": seen.name},
        classes=evidence.classes,
        fields={"activation": _activation(seen), **MORE_LIKELY_THAN_NOT},
        seen=f"{seen} of one channel",
        certainty=Certainty.NUMBERS,  # surer than a matte, which has no names
        notes=notes,
    )


def _activation(seen: Seen) -> str:
    return "none" if seen.operator == "Sigmoid" or are_probabilities(seen.values) else "sigmoid"


def _saliency(evidence: Evidence) -> Fit | None:
    mattes = [seen for seen, channels in _maps(evidence) if seen.is_float and channels == 1]
    if not mattes:
        return None
    seen, notes = _first(mattes, *MATTES)
    return Fit(
        outputs={"matte": seen.name},
        classes=None,
        fields={"activation": _activation(seen)},
        seen=str(seen),
        certainty=Certainty.NAMES if seen.called(*MATTES) else Certainty.SHAPE,
        notes=notes,
    )


def _movenet(evidence: Evidence) -> Fit | None:
    for seen in evidence.floats(4):
        _, bodies, count, numbers = seen.shape
        if bodies == 1 and numbers == 3 and evidence.keypoints in {None, count}:
            return Fit(
                outputs={"keypoints": seen.name},
                classes=None,
                fields={"keypoints": keypoint_names(count, evidence), "activation": "none", "normalized": True},
                seen=f"{seen}, {count} keypoints",
                certainty=Certainty.SHAPE,
            )
    return None


def _vectors(evidence: Evidence) -> list[Seen]:
    """Return the outputs of one vector a picture, (N, D) up to trailing dimensions of 1."""
    return [
        seen
        for seen in evidence.outputs
        if seen.is_scores
        and seen.values.ndim >= 2
        and seen.shape[0] == evidence.batch
        and all(size == 1 for size in seen.shape[2:])
    ]


def _classification(evidence: Evidence) -> Fit | None:
    known = evidence.classes
    vectors = [
        seen for seen in _vectors(evidence) if known in {None, seen.shape[1]} or (known == 2 and seen.shape[1] == 1)
    ]
    if not vectors:
        return None
    seen, notes = _first(vectors, "logits", "prob", "score")
    return Fit(
        outputs={"scores": seen.name},
        classes=known or seen.shape[1],
        fields={"activation": _classifier_activation(seen)},
        seen=str(seen),
        certainty=Certainty.SHAPE,
        notes=notes,
    )


def _classifier_activation(seen: Seen) -> str:
    if seen.operator in BY_LAST_OPERATOR:
        return BY_LAST_OPERATOR[seen.operator]
    scores = seen.values.reshape(seen.shape[:2]).astype(np.float64)
    sums_up = scores.shape[1] > 1 and are_probabilities(scores) and np.allclose(scores.sum(axis=1), 1, atol=1e-3)
    return "none" if sums_up else "softmax"


def _embedding(evidence: Evidence) -> Fit | None:
    vectors = [seen for seen in _vectors(evidence) if seen.is_float]
    if not vectors:
        return None
    seen, notes = _first(vectors, "embed", "pool", "feature")
    return Fit(
        outputs={"embedding": seen.name},
        classes=None,
        fields={"activation": "none"},
        seen=str(seen),
        certainty=Certainty.SHAPE,
        notes=notes,
    )


RULES: Mapping[str, Callable[[Evidence], Fit | None]] = {
    "semantic": _semantic,
    "saliency": _saliency,
    "movenet": _movenet,
    "classification": _classification,
    "embedding": _embedding,
}
