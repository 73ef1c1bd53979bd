"""Ray actors that read and decode for workers whose nodes have too few cores for their accelerators.

Rules:
    * They sit on nodes without an accelerator, a core each, and where there are none they are refused: an
      accelerator's own node decodes already with all its cores.
    * Descriptors go out and batches of pixels come back through Ray's object store: docs/adr/0014.
    * A worker asks them in turn. One that died, failed or did not answer in `ANSWER_TIMEOUT` is left alone for `REST`;
      what it was asked for its worker does. Ray starts it again, on its node.
    * Who started them ends them.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import PoolError, UnansweredError
from cluster.pool.seats import NEEDS, Node
from cluster.pool.shipment import Shipment
from cluster.worker.elsewhere import Answer, Request, answer
from cluster.worker.memory import keep_memory_low
from cluster.worker.preparing import Preparer
from cluster.worker.spec import WorkerSpec
from runtime.manifest import Manifest
from runtime.preparation import Preparation

__all__ = ["Crew", "DecodeActors", "Reach", "places", "without"]

ANSWER_TIMEOUT = 120.0  # seconds
REST = 10.0  # seconds
ACCELERATORS = frozenset(NEEDS.values()) - {""}  # resources of Ray


Reach = tuple[tuple[Any, ...], tuple[Shipment, ...], WorkerSpec]
"""Handles of the actors, the models, and the spec."""


def places(nodes: Sequence[Node], count: int) -> list[str]:
    """Return the nodes of at most *count* actors: those without an accelerator, the one with most cores left first."""
    free = {node.id: node.cores for node in nodes if not any(node.resources.get(name) for name in ACCELERATORS)}
    found: list[str] = []
    while len(found) < count and any(free.values()):
        most = max(free, key=lambda node: free[node])
        free[most] -= 1
        found.append(most)
    return found


def without(nodes: Sequence[Node], taken: Sequence[str]) -> list[Node]:
    """Return *nodes* less a core for each time that one is *taken*."""
    cores = Counter(taken)
    return [
        replace(node, resources={**node.resources, "CPU": node.cores - cores[node.id]}) if cores[node.id] else node
        for node in nodes
    ]


class _DecodeBody:
    """What lives in an actor's process: a `Preparer` for each choice of variants that was asked for.

    Each call brings what it needs of the models, so that an actor that Ray started again needs nobody to tell it.
    """

    def __init__(self) -> None:
        keep_memory_low()
        self._manifests: list[Manifest] = []
        self._preparers: dict[tuple[str, ...], Preparer] = {}

    def answer(self, shipments: Sequence[Shipment], spec: WorkerSpec, request: Request) -> Answer:
        """Do what *request* asks for, of the models in *shipments*."""
        if not self._manifests:
            self._manifests = [shipment.open().manifest for shipment in shipments]
        if request.variants not in self._preparers:
            pairs = zip(self._manifests, request.variants, strict=True)
            preparations = [Preparation.of(manifest, variant) for manifest, variant in pairs]
            self._preparers[request.variants] = Preparer(spec, lambda: preparations)
        return answer(self._preparers[request.variants], request)


class Crew:
    """The driver's side: starts decode actors and ends them; needs a connection to Ray.

    Attributes:
        reach: What a `DecodeActors` is made of; it travels to the workers.
        remarks: What is to be known of them.
    """

    def __init__(self, nodes: Sequence[Node], count: int, shipments: Sequence[Shipment], spec: WorkerSpec) -> None:
        """Start *count* actors, or as many as *nodes* have cores for.

        Args:
            nodes: Of the cluster.
            count: At least one.
            shipments: The models.
            spec: Of the workers that they decode for.

        Raises:
            PoolError: No node has a core for one.
        """
        self._places = places(nodes, count)
        if not self._places:
            raise PoolError(f"--decode-actors {count}: no node has cores and no accelerator")
        fewer = f"only {len(self._places)} of {count} decode actors: nodes without an accelerator have no more cores"
        self.remarks = [fewer] if len(self._places) < count else []
        handles = tuple(
            ray.remote(
                num_cpus=1,
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )(_DecodeBody).remote()
            for node in self._places
        )
        self.reach: Reach = (handles, tuple(shipments), spec)

    def left(self, nodes: Sequence[Node]) -> list[Node]:
        """Return what the actors leave of *nodes*."""
        return without(nodes, self._places)

    def close(self) -> None:
        """Kill all actors."""
        for handle in self.reach[0]:
            with suppress(RayError):
                ray.kill(handle)


class DecodeActors:
    """A worker's side: asks the actors that *reach* leads to; used by several threads at a time."""

    def __init__(self, reach: Reach) -> None:
        self._handles, *self._call = reach
        self._rested = [0.0] * len(self._handles)  # by actor: when it may be asked again
        self._next = random.randrange(len(self._handles))  # noqa: S311 - so that workers do not all begin with one
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._handles)

    def ask(self, request: Request) -> Callable[[], Answer]:
        """Begin with *request*; see `cluster.worker.elsewhere.Decoders`."""
        actor = self._choose()
        if actor is None:
            return _nobody
        reference = self._handles[actor].answer.remote(*self._call, request)
        until = time.monotonic() + ANSWER_TIMEOUT  # of all that one asked for, not of one after the other
        return lambda: self._answer(actor, reference, until)

    def _choose(self) -> int | None:
        with self._lock:
            for turn in range(self.count):
                actor = (self._next + turn) % self.count
                if self._rested[actor] <= time.monotonic():
                    self._next = actor + 1
                    return actor
        return None

    def _answer(self, actor: int, reference: Any, until: float) -> Answer:
        try:
            found: Answer = ray.get(reference, timeout=max(1.0, until - time.monotonic()))
        except RayTaskError as error:  # it lives: the rows are at fault, and whoever does them finds out how
            raise UnansweredError(f"a decode actor failed: {_short(error)}") from None
        except (RayError, GetTimeoutError) as error:
            self._rested[actor] = time.monotonic() + REST
            raise UnansweredError(f"a decode actor did not answer: {_short(error)}") from None
        return found


def _nobody() -> Answer:
    raise UnansweredError("no decode actor can be asked")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
