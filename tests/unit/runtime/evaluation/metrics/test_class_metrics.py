"""Classification and embeddings: scikit-learn's own figures, and answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from detection_heads import manifest_of
from sklearn.metrics import f1_score, precision_recall_fscore_support

from runtime.errors import DatasetError
from runtime.evaluation.metrics import METRICS
from runtime.evaluation.metrics.classification import ClassificationJudge
from runtime.evaluation.metrics.embedding import EmbeddingJudge, Neighbours
from runtime.tasks import Classification, Embedding, LabelScore

LABELS = tuple("abcdefg")


def answer(*ids: int) -> Classification:
    top = tuple(LabelScore(one, LABELS[one], 0.9 - place / 10) for place, one in enumerate(ids))
    return Classification(top[0].label_id, top[0].label, top[0].score, top)


def judged(answers: list[Classification], truth: list[int]) -> ClassificationJudge:
    judge = ClassificationJudge(manifest_of("classification", LABELS, task="classification", top_k=2))
    for prediction, label in zip(answers, truth, strict=True):
        judge.add(prediction, label, (8, 8))
    return judge


def test_figures_by_class_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 200)  # two classes never occur
    said = np.where(random.random(200) < 0.6, truth, random.integers(0, 7, 200))
    figures = judged([answer(int(one)) for one in said], truth.tolist()).figures()
    expected = precision_recall_fscore_support(truth, said, labels=range(7), zero_division=np.nan)
    assert figures.classes is not None
    ours = np.array([values for _, values in figures.classes.rows])
    np.testing.assert_allclose(ours[:5], np.stack(expected, axis=1)[:5])
    assert figures.metrics["top1"] == pytest.approx(np.mean(truth == said))
    assert figures.metrics["macro_f1"] == pytest.approx(f1_score(truth, said, labels=range(5), average="macro"))
    assert figures.confusion is not None
    assert figures.confusion.counts[2, 3] == np.count_nonzero((truth == 2) & (said == 3))
    assert figures.confusion.counts.sum() == 200


def test_top_5_counts_the_five_best_and_the_picture_shows_what_the_model_gives() -> None:
    judge = judged([answer(0, 1, 2, 3, 4, 5), answer(0, 1, 2, 3, 4, 5)], [4, 5])
    assert judge.figures().metrics["top5"] == 0.5
    assert judge.changes["top_k"] == 5
    verdict = judge.add(answer(6, 1, 2), 6, (8, 8))
    assert (verdict.right, verdict.said, len(verdict.shown.top_k)) == (True, "g", 2)


def test_agreement_is_the_share_of_images_with_the_same_best_class() -> None:
    agreement = METRICS[Classification].agreement
    assert agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def vectors(*angles: float) -> list[Embedding]:
    return [Embedding(np.array([np.cos(angle), np.sin(angle)], np.float32)) for angle in angles]


def test_recall_at_1_asks_for_the_nearest_other_image_and_leaves_lonely_classes_out() -> None:
    judge = EmbeddingJudge(manifest_of("embedding", task="embedding"))
    for prediction, label in zip(vectors(0, 0.1, 1.0, 1.05, 3.0), (0, 0, 1, 0, 2), strict=True):
        judge.add(prediction, label, (8, 8))
    # 0 and 1 find each other; 2 is alone in its class, as is 4; 3 finds 2, which is of another
    assert judge.figures().metrics == {"recall1": pytest.approx(2 / 3)}


def test_without_two_of_a_class_embeddings_cannot_be_judged() -> None:
    judge = EmbeddingJudge(manifest_of("embedding", task="embedding"))
    for prediction, label in zip(vectors(0, 1), (0, 1), strict=True):
        judge.add(prediction, label, (8, 8))
    with pytest.raises(DatasetError, match="no two images have the same label"):
        judge.figures()


def test_the_nearest_is_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    points = random.normal(size=(37, 5)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    monkeypatch.setattr("runtime.evaluation.metrics.embedding.ROWS", 8)
    cosines = points @ points.T
    np.fill_diagonal(cosines, -2)
    labels = random.integers(0, 5, 37)
    expected = labels[cosines.argmax(axis=1)] == labels
    for asked in (np.arange(37), np.array([3, 20, 36])):
        neighbours = Neighbours(points[asked], labels[asked], asked)
        for start in range(0, 37, 10):
            part = np.arange(start, min(start + 10, 37))
            neighbours.see(points[part], labels[part], part)
        assert neighbours.recall() == expected[asked].mean()


def test_agreement_of_vectors_is_their_mean_cosine() -> None:
    one, other = (np.stack([v.embedding for v in vectors(*angles)]) for angles in ((0, 0), (0, np.pi / 3)))
    assert METRICS[Embedding].agreement(one, other) == pytest.approx(0.75)
