"""Ray clusters of several nodes, which are processes of this machine, and which no driver is there for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ray.cluster_utils import Cluster

__all__ = ["add_node", "ray_nodes"]

LIGHT = {"include_dashboard": False, "object_store_memory": 100 * 1024**2}
STARTS = 4  # of a node that Ray gives up


@contextmanager
def ray_nodes(*nodes: Mapping[str, float]) -> Iterator[Cluster]:
    """Run a cluster of *nodes*, each with its resources as ``num_cpus`` or ``num_gpus``, and end it."""
    cluster = Cluster()
    try:
        for resources in nodes:
            add_node(cluster, **resources)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster, **resources: float) -> Any:
    """Return a new node of *cluster*; a busy machine may need more than the half minute that Ray gives it."""
    for _ in range(STARTS - 1):
        with suppress(Exception):
            return cluster.add_node(**resources, **LIGHT)
    return cluster.add_node(**resources, **LIGHT)
