"""The pool whose workers are Ray actors, on this machine or on a cluster.

Rules:
    * Only descriptors travel through Ray: tasks go out, commits come back. Pixels do only where decode actors were
      asked for (`cluster.pool.decode_actors`).
    * `cluster.pool.seats.seats` says who sits where; this module makes it so, again and again: an actor
      that died is replaced, a node that joins gets its actors, one that is lost is forgotten.
    * An actor reserves the cores that its threads use. If the cluster cannot place all actors, those
      that it can place do the work; if it can place none in time, that is an error, not a wait.
    * An actor that cannot start (its proof failed) takes its kind out of that place, which is
      reported, and the others go on.
    * An actor whose process dies is a crash of the shards it ran; one whose node died, or that was
      killed for another shard, is no fault of theirs.
    * What was asked for by number, or the least where no node has a seat, is asked of Ray's autoscaler, until `close`.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import PoolError
from cluster.models import JobModel
from cluster.pool.actor import BatchWorker
from cluster.pool.seats import NEEDS, Node, Refused, Seat, least
from cluster.pool.session import cluster_nodes
from cluster.pool.shipment import Shipment, ship
from cluster.pool.tasks import Failure, Kind, Outcome, Task
from cluster.worker.spec import WorkerSpec

if TYPE_CHECKING:
    from cluster.pool.decode_actors import Crew

__all__ = ["RayPool"]

SLOTS = 2  # tasks an actor: while one ends, the next begins
START_TIMEOUT = 180.0  # seconds until the first actor must be ready
MOST_BAD_STARTS = 3  # actors of one kind at one place, in a row, that die while they start
POLL_PROGRESS = 1.0  # seconds
POLL_NODES = 2.0  # seconds

Arrange = Callable[[list[Node], Refused], list[Seat]]
"""Says who sits where, of the nodes that there are and of what was refused."""


@dataclass(slots=True, eq=False)
class _Actor:
    """One actor as the driver sees it."""

    handle: Any
    seat: Seat
    starting: Any = None  # the reference of its start; None once it is ready
    ran_on: Mapping[str, str] = field(default_factory=dict)
    tasks: dict[Any, Task] = field(default_factory=dict)  # by reference of the call
    alone: bool = False
    poll: Any = None  # the reference of a progress call under way
    progress: dict[str, int] = field(default_factory=dict)  # by shard

    @property
    def node(self) -> str:
        return self.ran_on.get("node", "")

    def has_room(self, task: Task) -> bool:
        if self.starting is not None or (task.alone and self.tasks):
            return False
        if any(other.shard.id == task.shard.id for other in self.tasks.values()):
            return False
        return len(self.tasks) < (1 if self.alone and self.tasks else SLOTS)


def _crew(decoders: int, shipments: Sequence[Shipment], spec: WorkerSpec) -> Crew:
    from cluster.pool.decode_actors import Crew  # and what reads and decodes, which a driver needs for nothing else

    return Crew(cluster_nodes(), decoders, shipments, spec)


class RayPool:
    """Actors that take tasks; needs a connection to Ray (`cluster.pool.session.ray_session`)."""

    def __init__(
        self,
        models: Sequence[JobModel],
        spec: WorkerSpec,
        arrange: Arrange,
        *,
        decoders: int = 0,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        """Begin to start the actors whose seats *arrange* gives.

        Args:
            models: That answer.
            spec: What workers must know.
            arrange: Says who sits where.
            decoders: Actors that decode for the others; started before them.
            start_timeout: Seconds until the first actor must be ready.

        Raises:
            PoolError: There is no node for a decoder.
        """
        self._models, self._spec = models, spec
        self._shipments = ship(models, whole=decoders > 0)
        self._crew = _crew(decoders, self._shipments, spec) if decoders else None
        self._arrange = arrange
        self._start_timeout = start_timeout
        self._deadline = time.monotonic() + start_timeout
        self._bad_starts: Counter[tuple[str, str | None]] = Counter()
        self._refused: Refused = frozenset()
        self._last_failure = ""
        self._polled = 0.0
        self._outcomes: list[Outcome] = []
        self._actors: list[_Actor] = []
        self._most = 0
        self.remarks: list[str] = list(self._crew.remarks) if self._crew else []
        self._least = least(spec.provider)
        self._asked: list[dict[str, float]] = []  # of the autoscaler
        self._arranged = self._fill_seats()

    def _fill_seats(self) -> float:
        """Start an actor for each empty seat; return the time."""
        nodes = cluster_nodes()
        wanted = Counter(self._arrange(self._crew.left(nodes) if self._crew else nodes, self._refused))
        taken = Counter(actor.seat for actor in self._actors)
        for seat in (wanted - taken).elements():
            self._spawn(seat)
        self._most = max(self._most, len(self._actors))
        nowhere = [] if self._actors or self._refused else [self._least]
        self._ask(self._asked or [seat.resources for seat in wanted.elements() if seat.node is None] or nowhere)
        return time.monotonic()

    def _ask(self, bundles: list[dict[str, float]]) -> None:
        """Ask Ray's autoscaler for nodes with room for *bundles*, in place of what was asked for before."""
        if bundles != self._asked:
            from ray.autoscaler.sdk import request_resources  # which loads much, and few jobs ask

            request_resources(bundles=bundles)
        self._asked = bundles

    def _spawn(self, seat: Seat) -> None:
        place: Any = "SPREAD"
        if seat.node is not None:
            place = NodeAffinitySchedulingStrategy(seat.node, soft=False)
        resources = {name: amount for name, amount in seat.resources.items() if name not in {"CPU", "GPU"}}
        handle = ray.remote(
            num_cpus=seat.cpus,
            num_gpus=seat.resources.get("GPU", 0),
            resources=resources,
            max_restarts=0,
            scheduling_strategy=place,
            concurrency_groups={"tasks": SLOTS, "watch": 1},
        )(BatchWorker).remote()
        self._actors.append(_Actor(handle, seat, starting=self._start(handle, seat)))

    def _start(self, handle: Any, seat: Seat) -> Any:
        return handle.start.remote(self._shipments, self._spec, seat, self._crew.reach if self._crew else None)

    def offer(self, task: Task) -> bool:
        """Give *task* to the least busy actor that has room; not on a node that it avoids, if another has actors."""
        fit = [actor for actor in self._actors if actor.starting is None and actor.node not in task.avoid]
        free = [actor for actor in fit or self._actors if actor.has_room(task)]
        if not free:
            return False
        actor = min(free, key=lambda actor: (len(actor.tasks), not NEEDS[actor.seat.kind]))
        reference = actor.handle.run.options(concurrency_group="tasks").remote(task)
        actor.tasks[reference], actor.alone = task, task.alone
        return True

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        self._poll_progress()
        by_reference = {actor.starting: actor for actor in self._actors if actor.starting is not None}
        by_reference.update({reference: actor for actor in self._actors for reference in actor.tasks})
        if by_reference and not self._outcomes:
            references = list(by_reference)
            ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
            if ready:
                ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in ready:
                self._settle(by_reference[reference], reference)
        elif not self._outcomes:
            time.sleep(min(timeout, POLL_NODES))
        if time.monotonic() - self._arranged > POLL_NODES:
            self._arranged = self._fill_seats()
        self._check_alive()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _settle(self, actor: _Actor, reference: Any) -> None:
        """Take the answer to a call of *actor*, which may be its death."""
        if actor not in self._actors:
            return  # it died, and all its calls were settled then
        try:
            answer = ray.get(reference)
        except RayTaskError as error:  # it lives, but cannot make sense of the call: other code than the driver's
            failure = Failure(text=f"a worker cannot do what it is asked to: {_last_line(error)}")
            answer = Outcome(task=actor.tasks[reference], failure=failure) if reference in actor.tasks else failure
        except RayError as error:
            kind, why = self._cause(actor, error)
            self._lost(actor, Failure(text=why, kind=kind, node=actor.node))
            return
        if reference in actor.tasks:
            task = actor.tasks.pop(reference)
            actor.progress.pop(task.shard.id, None)
            if answer.failure is not None:
                answer = replace(answer, failure=replace(answer.failure, node=actor.node))
            self._outcomes.append(answer)
        elif isinstance(answer, Failure):
            self._refuse(actor.seat, answer.text)
            self._actors.remove(actor)
            ray.kill(actor.handle)
            self._arranged = self._fill_seats()
        elif answer is None:
            if not all(shipment.contents for shipment in self._shipments):
                self._shipments = ship(self._models, whole=True)
            actor.starting = self._start(actor.handle, actor.seat)
        else:
            actor.starting, actor.ran_on = None, answer
            del self._bad_starts[actor.seat.kind, actor.seat.node]

    def _cause(self, actor: _Actor, error: RayError) -> tuple[Kind, str]:
        """Return of what kind the death of *actor* was, and its description."""
        said = _first_sentence(error)
        if isinstance(error, OutOfMemoryError):
            return Kind.MEMORY, f"its node was out of memory ({said})"
        if actor.node and actor.node not in {node.id for node in cluster_nodes()}:
            return Kind.LOST, "its node was lost"
        if isinstance(error, ActorUnschedulableError) or "node has died" in str(error) or "node died" in str(error):
            return Kind.LOST, f"its node was lost ({said})"
        if isinstance(error, ActorUnavailableError):
            return Kind.LOST, f"its worker is out of reach ({said})"
        if isinstance(error, RayActorError):
            return Kind.CRASH, f"its worker process died ({said})"
        return Kind.ERROR, f"Ray failed: {said}"

    def _refuse(self, seat: Seat, why: str) -> None:
        """Let nobody sit on such a seat any more."""
        self._last_failure = why
        if (seat.kind, seat.node) not in self._refused:
            where = f" on node {seat.node[:8]}" if seat.node else ""
            self.remarks.append(f"no {seat.kind} workers{where}: {why}")
        self._refused |= {(seat.kind, seat.node)}

    def _lost(self, actor: _Actor, failure: Failure) -> None:
        """Replace *actor*; its tasks ended by *failure*."""
        self._actors.remove(actor)
        self._last_failure = failure.text
        self._outcomes += [Outcome(task=task, failure=failure) for task in actor.tasks.values()]
        if actor.starting is not None:
            place = (actor.seat.kind, actor.seat.node)
            self._bad_starts[place] += 1
            if self._bad_starts[place] >= MOST_BAD_STARTS:
                self._refuse(actor.seat, failure.text)
        with suppress(RayError):
            ray.kill(actor.handle)  # if it is only out of reach, it must not come back
        self._deadline = time.monotonic() + self._start_timeout
        self._arranged = self._fill_seats()

    def _check_alive(self) -> None:
        if not self._actors and self._refused and not self._outcomes:
            raise PoolError(f"no worker could be started: {self._last_failure}")
        if all(actor.starting is not None for actor in self._actors) and time.monotonic() > self._deadline:
            has, free = ray.cluster_resources(), ray.available_resources()
            asks = self._actors[0].seat.resources if self._actors else self._least
            raise PoolError(
                f"none of {max(1, len(self._actors))} workers was ready in time: one asks for {_amounts(asks, asks)}; "
                f"the cluster has {_amounts(has, asks)}, free are {_amounts(free, asks)}. "
                "Free some, or ask for fewer with --workers"
            )

    def _poll_progress(self) -> None:
        """Ask the actors how far they are, without waiting for any."""
        for actor in self._actors:
            if actor.poll is not None and ray.wait([actor.poll], timeout=0)[0]:
                with suppress(RayError):  # a death shows in the task's own call
                    actor.progress = ray.get(actor.poll)
                actor.poll = None
        if time.monotonic() - self._polled < POLL_PROGRESS:
            return
        self._polled = time.monotonic()
        for actor in self._actors:
            if actor.poll is None and actor.tasks:
                actor.poll = actor.handle.progress.options(concurrency_group="watch").remote()

    def progress(self) -> Mapping[int, int]:
        """Return how many rows of each running task are through, as of the last answers."""
        return {
            task.number: actor.progress.get(task.shard.id, 0) for actor in self._actors for task in actor.tasks.values()
        }

    def abandon(self, task: Task) -> None:
        """Kill the actor that runs *task*, and replace it; what else it ran is lost without a fault."""
        for actor in [actor for actor in self._actors if task in actor.tasks.values()]:
            if actor.ran_on.get("host") == socket.gethostname():  # Ray asks it to end; a stopped process cannot answer
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(actor.ran_on["pid"]), signal.SIGKILL)
            actor.tasks = {reference: other for reference, other in actor.tasks.items() if other is not task}
            text = "it was stuck, and its worker was killed"
            self._outcomes.append(Outcome(task=task, failure=Failure(text=text, kind=Kind.STUCK)))
            self._lost(actor, Failure(text="its worker was killed for another shard", kind=Kind.LOST))

    @property
    def workers(self) -> int:
        """The most workers that there were at a time."""
        return self._most

    def close(self) -> None:
        """Kill all actors."""
        with suppress(RayError, RuntimeError):
            self._ask([])
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor.handle)
        self._actors.clear()
        if self._crew:
            self._crew.close()


def _amounts(of: Mapping[str, float], like: Mapping[str, float]) -> str:
    return ", ".join(f"{of.get(name, 0):g} {name}s" for name in like)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2][:200]


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0][:200]
