"""A batch through a graph of one size comes out as if the graph took any."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.batching import run_in_batches
from runtime.manifest import Postprocess, Tensor

PLAIN, BOXES = Postprocess(kind="classification"), Postprocess(kind="boxes")


class Graph:
    """Takes batches of one size; says of each image what *answer* does of its first number."""

    def __init__(self, size: int | None, shapes: dict[str, tuple[int | str, ...]], answer) -> None:
        self.batch = size
        self.outputs = tuple(Tensor(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())
        self.calls: list[int] = []
        self._answer = answer

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        assert self.batch in {None, len(batch)}
        self.calls.append(len(batch))
        return self._answer(batch[:, 0])


def images(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32).reshape(-1, 1)


def doubled(numbers: np.ndarray) -> list[np.ndarray]:
    return [np.stack([numbers, 2 * numbers, 0 * numbers, 0 * numbers], axis=1)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("first", ["N", 4])
def test_parts_are_padded_and_put_together(count: int, first: int | str) -> None:
    graph = Graph(4, {"scores": (first, 4)}, doubled)
    numbers = np.arange(count, dtype=np.float32)
    (found,) = run_in_batches(graph, images(*numbers), PLAIN)
    np.testing.assert_array_equal(found, doubled(numbers)[0])
    assert graph.calls == [4] * -(-count // 4)


def test_a_graph_of_any_size_is_called_once() -> None:
    graph = Graph(None, {"scores": ("N", 4)}, doubled)
    run_in_batches(graph, images(1, 2, 3), PLAIN)
    assert graph.calls == [3]


def rows(numbers: np.ndarray) -> list[np.ndarray]:
    """As many boxes as the image's number, of one image alone: boxes (M, 4), scores (M,), labels (M,)."""
    (count,) = numbers.astype(int)
    return [np.full((count, 4), count, np.float32), np.full(count, 0.5, np.float32), np.arange(count)]


def test_boxes_without_a_batch_dimension_get_one_and_end_in_rows_without_a_score() -> None:
    graph = Graph(1, {"boxes": ("M", 4), "scores": ("M",), "labels": ("M",)}, rows)
    boxes, scores, labels = run_in_batches(graph, images(2, 0, 3), BOXES)
    assert (boxes.shape, scores.shape, labels.shape) == ((3, 3, 4), (3, 3), (3, 3))
    np.testing.assert_array_equal(scores, [[0.5, 0.5, 0], [0, 0, 0], [0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(boxes[2], np.full((3, 4), 3))


def test_one_box_an_image_is_not_taken_for_a_batch() -> None:
    graph = Graph(1, {"boxes": ("M", 4), "scores": ("M",), "labels": ("M",)}, rows)
    boxes, scores, _ = run_in_batches(graph, images(1, 1, 1), BOXES)
    assert boxes.shape == (3, 1, 4)
    assert scores.size == 3


def test_a_fixed_number_of_boxes_without_a_batch_dimension_is_stacked() -> None:
    graph = Graph(1, {"rows": (5, 6)}, lambda numbers: [np.full((5, 6), numbers[0], np.float32)])
    (found,) = run_in_batches(graph, images(1, 2), BOXES)
    assert found.shape == (2, 5, 6)
    assert (found[1] == 2).all()


def table(numbers: np.ndarray) -> list[np.ndarray]:
    """For each image as many rows as its number: image x1 y1 x2 y2 label score."""
    found = [[index, 0, 0, 9, 9, number, 0.5] for index, number in enumerate(numbers) for _ in range(int(number))]
    return [np.array(found, np.float32).reshape(-1, 7)]


def test_rows_of_a_whole_batch_are_renumbered_without_those_of_the_padding() -> None:
    numbers = [2, 0, 1, 3, 1]
    expected = table(np.array(numbers, np.float32))[0]
    for size in (1, 2, 4):
        (found,) = run_in_batches(Graph(size, {"rows": ("M", 7)}, table), images(*numbers), BOXES)
        np.testing.assert_array_equal(found, expected)
