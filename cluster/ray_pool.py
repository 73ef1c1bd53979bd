"""The pool whose workers are Ray actors, on this machine or on a cluster.

Rules:
    * Only descriptors travel through Ray: shards go out, commits come back; pixels never do.
    * An actor reserves the cores that its threads use. If the cluster cannot place all actors, those
      that it can place do the work; if it can place none in time, that is an error, not a wait.
    * An actor that dies, or is killed because it is stuck, is replaced; its shards are failures.
    * A shard that is retried runs alone on its actor.
    * What this module started it ends; a cluster that was there before stays.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from cluster.errors import PoolError
from cluster.plan import Shard
from cluster.pool import Failure, Outcome, run_shard
from cluster.shipping import Package, unpack
from cluster.worker import ShardWorker, Threads, WorkerSpec

__all__ = ["RayPool", "ray_session"]

SLOTS = 2  # shards an actor: while one ends, the next begins
CONNECT_TIMEOUT = 5.0  # seconds
START_TIMEOUT = 180.0  # seconds until the first actor must be ready
MOST_BAD_STARTS = 3  # actors in a row that die while they start
POLL_PROGRESS = 1.0  # seconds
OBJECT_STORE = 256 * 1024**2  # bytes; the artifact and nothing else lies there


@contextmanager
def ray_session(address: str | None, cores: int) -> Iterator[int]:
    """Be connected to Ray, and yield how many cores its cluster has.

    Args:
        address: Of a cluster; ``RAY_ADDRESS`` counts too; without either one is started here.
        cores: That a cluster started here has.

    Raises:
        PoolError: There is no cluster at *address*, or none could be started.
    """
    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 0))
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    own = {"num_cpus": cores, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    _check_reachable(address)
    with _silenced_stdout():
        try:
            ray.init(address=address, **quiet, **(own if address == "local" else {}))
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise PoolError(
                f"Ray at {address!r} cannot be used: {' '.join(str(error).split())[:300]}; --local runs without Ray"
            ) from None
        try:
            yield int(ray.cluster_resources().get("CPU", 0))
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise unless something listens at *address*, if that is host and port: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise PoolError(f"there is no Ray cluster at {address!r}: {error}; --local runs without Ray") from None


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """Keep Ray's own remarks out of the result: a thread of it prints to stdout when a worker dies."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123 - no path of ours
        yield


class _ActorBody:
    """What lives in an actor's process: one `ShardWorker`."""

    def __init__(self) -> None:
        self._worker: ShardWorker | None = None

    def start(self, package: Package, spec: WorkerSpec, threads: Threads) -> dict[str, str] | Failure:
        """Build the worker, which proves its provider; return what it runs on, or why not."""
        try:
            self._worker = ShardWorker(unpack(package), spec, threads)
        except Exception as error:  # noqa: BLE001 - it is reported, and the driver decides
            return Failure.of(error)
        return self._worker.ran_on

    def run(self, shard: Shard) -> Outcome:
        """Run *shard*."""
        if self._worker is None:
            return Outcome(shard=shard, failure=Failure(text="the worker was not started"))
        return run_shard(self._worker, shard)

    def progress(self) -> dict[str, int]:
        """Return how many rows of each running shard are through."""
        return {} if self._worker is None else self._worker.progress()


@dataclass(slots=True, eq=False)
class _Actor:
    """One actor as the driver sees it."""

    handle: Any
    starting: Any = None  # the reference of its start; None once it is ready
    ran_on: Mapping[str, str] = field(default_factory=dict)
    shards: dict[Any, Shard] = field(default_factory=dict)  # by reference of the call
    alone: bool = False
    poll: Any = None  # the reference of a progress call under way
    progress: dict[str, int] = field(default_factory=dict)

    def has_room(self, *, alone: bool) -> bool:
        if self.starting is not None or (alone and self.shards):
            return False
        return len(self.shards) < (1 if self.alone and self.shards else SLOTS)


class RayPool:
    """Actors that take shards; needs a connection to Ray (`ray_session`)."""

    def __init__(
        self,
        package: Package,
        spec: WorkerSpec,
        threads: Threads,
        *,
        actors: int,
        cpus: float,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        """Begin to start the *actors*, which reserve *cpus* each."""
        self._call = (ray.put(package), spec, threads)
        self._actor_class = ray.remote(
            num_cpus=cpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"shards": SLOTS, "watch": 1},
        )(_ActorBody)
        self._cpus, self._wanted = cpus, actors
        self._start_timeout = start_timeout
        self._deadline = time.monotonic() + start_timeout
        self._bad_starts = 0
        self._last_failure = ""
        self._polled = 0.0
        self._outcomes: list[Outcome] = []
        self._actors: list[_Actor] = []
        for _ in range(actors):
            self._spawn()

    def _spawn(self) -> None:
        handle = self._actor_class.remote()
        self._actors.append(_Actor(handle, starting=handle.start.remote(*self._call)))

    def offer(self, shard: Shard, *, alone: bool = False) -> bool:
        """Give *shard* to the least busy actor that has room."""
        free = [actor for actor in self._actors if actor.has_room(alone=alone)]
        if not free:
            return False
        actor = min(free, key=lambda actor: len(actor.shards))
        reference = actor.handle.run.options(concurrency_group="shards").remote(shard)
        actor.shards[reference], actor.alone = shard, alone
        return True

    def wait(self, timeout: float) -> list[Outcome]:
        """Return what ended; see `Pool`."""
        self._poll_progress()
        by_reference = {actor.starting: actor for actor in self._actors if actor.starting is not None}
        by_reference.update({reference: actor for actor in self._actors for reference in actor.shards})
        if by_reference and not self._outcomes:
            references = list(by_reference)
            ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
            if ready:
                ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in ready:
                self._settle(by_reference[reference], reference)
        self._check_alive()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _settle(self, actor: _Actor, reference: Any) -> None:
        """Take the answer to a call of *actor*, which may be its death."""
        if actor not in self._actors:
            return  # it died, and all its calls were settled then
        try:
            answer = ray.get(reference)
        except RayActorError as error:
            self._lost(actor, f"its worker process died ({_first_sentence(error)})")
            return
        except RayError as error:
            self._lost(actor, f"Ray failed: {_first_sentence(error)}")
            return
        if reference in actor.shards:
            del actor.shards[reference]
            self._outcomes.append(answer)
        elif isinstance(answer, Failure):
            self._last_failure = answer.text
            self._actors.remove(actor)
            ray.kill(actor.handle)
        else:
            actor.starting, actor.ran_on, self._bad_starts = None, answer, 0

    def _lost(self, actor: _Actor, why: str) -> None:
        """Replace *actor*; its shards failed."""
        self._actors.remove(actor)
        self._last_failure = why
        self._outcomes += [Outcome(shard=shard, failure=Failure(text=why)) for shard in actor.shards.values()]
        if actor.starting is not None:
            self._bad_starts += 1
        with suppress(RayError):
            ray.kill(actor.handle)  # if it is only out of reach, it must not come back
        if self._bad_starts < MOST_BAD_STARTS:
            self._deadline = time.monotonic() + self._start_timeout
            self._spawn()

    def _check_alive(self) -> None:
        if not self._actors and not self._outcomes:
            raise PoolError(f"no worker could be started: {self._last_failure}")
        if all(actor.starting is not None for actor in self._actors) and time.monotonic() > self._deadline:
            has, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
            raise PoolError(
                f"none of {self._wanted} workers was ready in time: each asks for {self._cpus:g} CPUs; the cluster "
                f"has {has:g}, free are {free:g}. Free some, or ask for fewer with --workers"
            )

    def _poll_progress(self) -> None:
        """Ask the actors how far they are, without waiting for any."""
        for actor in self._actors:
            if actor.poll is not None and ray.wait([actor.poll], timeout=0)[0]:
                with suppress(RayError):  # a death shows in the shard's own call
                    actor.progress = ray.get(actor.poll)
                actor.poll = None
        if time.monotonic() - self._polled < POLL_PROGRESS:
            return
        self._polled = time.monotonic()
        for actor in self._actors:
            if actor.poll is None and actor.shards:
                actor.poll = actor.handle.progress.options(concurrency_group="watch").remote()

    def progress(self) -> Mapping[str, int]:
        """Return how many rows of each running shard are through, as of the last answers."""
        return {shard_id: rows for actor in self._actors for shard_id, rows in actor.progress.items()}

    def abandon(self, shard: Shard) -> None:
        """Kill the actor that runs *shard*, and replace it."""
        for actor in [actor for actor in self._actors if shard in actor.shards.values()]:
            if actor.ran_on.get("host") == socket.gethostname():  # Ray asks it to end; a stopped process cannot answer
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(actor.ran_on["pid"]), signal.SIGKILL)
            self._lost(actor, "its worker made no progress and was killed")

    def describe(self) -> list[Mapping[str, str]]:
        """Return what each ready worker runs on."""
        return [actor.ran_on for actor in self._actors if actor.starting is None]

    def close(self) -> None:
        """Kill all actors."""
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor.handle)
        self._actors.clear()


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition(". ")[0][:200]
