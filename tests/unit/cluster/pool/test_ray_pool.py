"""What the death of an actor means, by what Ray says of it; without a cluster."""

from __future__ import annotations

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    OutOfMemoryError,
    RayError,
)

from cluster.pool import ray_pool
from cluster.pool.ray_pool import RayPool, _Actor
from cluster.pool.seats import Node, Seat
from cluster.pool.tasks import Kind
from cluster.worker.spec import Threads

ACTOR = bytes(16)


def died(message: str) -> ActorDiedError:
    return ActorDiedError(ActorDiedErrorContext(error_message=message, actor_id=ACTOR))


CASES: list[tuple[RayError, Kind]] = [
    (died("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"), Kind.CRASH),
    (died("The actor died because its node has died. Node Id: 00ff"), Kind.LOST),
    (OutOfMemoryError("Task was killed due to the node running low on memory."), Kind.MEMORY),
    (
        ActorUnschedulableError("the node of its affinity does not exist any more"),
        Kind.LOST,
    ),
    (ActorUnavailableError("the connection broke", ACTOR), Kind.LOST),
    (LocalRayletDiedError(), Kind.ERROR),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda value: type(value).__name__)
def test_deaths_go_by_what_ray_says(monkeypatch, error, kind):
    monkeypatch.setattr(ray_pool, "cluster_nodes", lambda: [Node(id="here", resources={})])
    assert cause("here", error) is kind


def test_an_actor_whose_node_is_gone_is_lost_whatever_is_said(monkeypatch):
    monkeypatch.setattr(ray_pool, "cluster_nodes", lambda: [Node(id="there", resources={})])
    assert cause("here", died("its worker process has died")) is Kind.LOST


def cause(node: str, error: RayError) -> Kind:
    seat = Seat(kind="cpu", provider="cpu", cpus=1, threads=Threads())
    return RayPool._cause(None, _Actor(None, seat, ran_on={"node": node}), error)[0]
