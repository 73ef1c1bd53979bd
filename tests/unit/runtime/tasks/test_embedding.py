"""Vectors of length 1."""

from __future__ import annotations

import numpy as np
import pytest
from detection_heads import manifest_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.errors import ModelError
from runtime.tasks import Embedding
from runtime.tasks.embedding import cosine, decode_embedding

MANIFEST = manifest_of("embedding", task="embedding")
VECTORS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


def decode(output: np.ndarray, images: int | None = None) -> list[Embedding]:
    return decode_embedding({"out": output}, [(8, 8)] * (len(output) if images is None else images), MANIFEST)


@given(VECTORS)
def test_a_vector_keeps_its_direction_and_has_length_one(vectors: np.ndarray) -> None:
    for vector, found in zip(vectors.astype(np.float64), decode(vectors), strict=True):
        assert found.embedding.dtype == np.float32
        if not vector.any():
            assert not found.embedding.any()
            continue
        assert np.linalg.norm(found.embedding.astype(np.float64)) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(found.embedding, vector / np.linalg.norm(vector), atol=1e-6)


def test_a_half_precision_vector_does_not_overflow() -> None:
    (found,) = decode(np.full((1, 2048), 60_000, np.float16))
    assert np.linalg.norm(found.embedding) == pytest.approx(1, abs=1e-6)


def test_trailing_dimensions_of_one_are_dropped() -> None:
    assert decode(np.ones((2, 4, 1, 1), np.float32))[1].embedding.tolist() == [0.5] * 4


def test_the_first_vector_counts_not_the_tokens_before_it() -> None:
    outputs = {"last_hidden_state": np.ones((1, 5, 4), np.float32), "pooled": np.array([[0, 3, 0, 4]], np.float32)}
    (found,) = decode_embedding(outputs, [(8, 8)], MANIFEST)
    assert found.embedding.tolist() == pytest.approx([0, 0.6, 0, 0.8])


def test_cosine() -> None:
    one, other, opposite, nothing = decode(np.array([[1, 0], [1, 1], [-2, 0], [0, 0]], np.float32))
    assert cosine(one, other) == pytest.approx(0.5**0.5)
    assert cosine(one, opposite) == -1
    assert cosine(one, one) == 1
    assert cosine(one, nothing) == 0


@pytest.mark.parametrize(("shape", "images"), [((2, 4), 1), ((1, 4, 4), 1), ((4,), 4)])
def test_an_output_that_does_not_fit_is_refused(shape: tuple[int, ...], images: int) -> None:
    with pytest.raises(ModelError, match=r"no output fits embedding: found out float32 .*; expected floating \("):
        decode(np.zeros(shape, np.float32), images)


def test_integers_are_no_vectors() -> None:
    with pytest.raises(ModelError, match=r"found out int64 \[1, 4\]"):
        decode(np.ones((1, 4), np.int64))
