"""Where decode actors sit, and what they leave for workers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.pool.decode_actors import places, without
from cluster.pool.seats import Node


def node(name: str, cores: int, **resources: float) -> Node:
    return Node(id=name, resources={"CPU": float(cores), **resources})


def test_they_sit_beside_no_accelerator_and_by_turns():
    nodes = [node("gpu", 16, GPU=1.0), node("big", 4), node("small", 2), node("phone", 8, qnn=1.0)]
    assert places(nodes, 4) == ["big", "big", "big", "small"]
    assert places(nodes, 100) == ["big", "big", "big", "small", "big", "small"]
    assert places(nodes[:1], 3) == []


def test_a_node_without_its_gpu_is_any_other():
    assert places([node("was", 2, GPU=0.0)], 1) == ["was"]


@given(st.lists(st.integers(0, 6), max_size=5), st.integers(1, 20))
def test_nobody_gets_a_core_twice(cores, count):
    nodes = [node(str(number), each) for number, each in enumerate(cores)]
    taken = places(nodes, count)
    assert len(taken) == min(count, sum(cores))
    left = without(nodes, taken)
    assert [one.cores for one in left] == [one.cores - Counter(taken)[one.id] for one in nodes]
    assert all(one.cores >= 0 for one in left)
