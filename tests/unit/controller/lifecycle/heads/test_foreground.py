"""One channel of numbers: a matte, or the one class that there are names for."""

from __future__ import annotations

import numpy as np
import pytest

from controller.lifecycle.heads import Evidence, Recognized, Seen, recognize

SIZE = 64
SHARES = np.random.default_rng(0).uniform(0, 1, (2, 1, SIZE, SIZE)).astype(np.float32)
LOGITS = np.log(SHARES / (1 - SHARES))


def recognized(values: np.ndarray, classes: int | None, name: str = "out", **given: str) -> Recognized:
    outputs = (Seen(name=name, values=values),)
    evidence = Evidence(batch=2, height=SIZE, width=SIZE, outputs=outputs, classes=classes)
    return recognize(evidence, "segmentation", names_given=classes is not None, **given)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize(("values", "activation"), [(SHARES, "none"), (LOGITS, "sigmoid")])
@pytest.mark.parametrize("shape", [(2, 1, SIZE, SIZE), (2, SIZE, SIZE, 1), (2, SIZE, SIZE)])
def test_a_channel_with_names_is_the_foreground(
    classes: int, values: np.ndarray, activation: str, shape: tuple[int, ...]
) -> None:
    found = recognized(values.reshape(shape), classes)
    assert (found.postprocess.kind, found.postprocess.outputs) == ("semantic", {"scores": "out"})
    assert (found.postprocess.activation, found.postprocess.score_threshold) == (activation, 0.5)
    assert found.classes == classes


def test_a_channel_without_names_or_called_one_is_a_matte() -> None:
    assert recognized(SHARES, None).postprocess.kind == "saliency"
    assert recognized(SHARES, 1, "alpha").postprocess.kind == "saliency"


def test_a_person_may_say_which() -> None:
    assert recognized(SHARES, 1, "alpha", head="semantic").postprocess.kind == "semantic"
    assert recognized(SHARES, 1, head="saliency").postprocess.kind == "saliency"


def test_channels_beside_the_background_count_where_they_are_likelier_than_not() -> None:
    found = recognized(np.concatenate([LOGITS, LOGITS], axis=1), 3)
    assert (found.postprocess.kind, found.postprocess.activation) == ("semantic", "sigmoid")
    assert found.postprocess.score_threshold == 0.5
