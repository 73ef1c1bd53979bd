"""How many workers of which kind, and how each uses its cores: the language of ``--workers``, and who sits where.

Rules:
    * ``auto`` is a worker for each accelerator that a node offers, with an equal share of the node's
      cores to decode for it, and one for each core of the other nodes. Its seats are bound to their
      nodes, so that a node which joins brings its own, and one that is lost takes its own along.
    * ``N`` or ``cpu=N`` is N workers without an accelerator; ``cuda=4,cpu=16`` names execution
      providers. They go wherever there is room, also on nodes that do not exist yet.
    * What a provider needs is `NEEDS`: cores alone, a GPU, or a custom resource of Ray by its own name.
    * A kind that was refused (its proof failed there) has no seat, and its cores are the others'.
    * A worker with one core infers and decodes on it in turn, in one thread: two would take the core's caches from
      each other. With more, a quarter decodes and the rest infers: for a MobileNetV2 that is how the work divides
      (decode and resize 2.6 ms, inference 8 ms). Beside an accelerator all of them decode.
    * Workers beyond the cores share them, each reserving its part of one, where the cluster is this
      machine; elsewhere those beyond wait for nodes to come.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from cluster.errors import WorkersError
from cluster.worker.spec import Threads

__all__ = [
    "NEEDS",
    "Division",
    "Node",
    "Seat",
    "divide",
    "least",
    "machine_cores",
    "parse_threads",
    "parse_workers",
    "seats",
]

Counts = Mapping[str, int]
"""Workers by key of `NEEDS`: an alias of an execution provider, or ``gpu`` for any that runs on one."""

_PART = re.compile(r"(?:([a-z-]+)=)?(\d+)")
_THREADS = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
MOST_WORKERS = 10_000
CPU = "cpu"
ACCELERATOR = "gpu"  # the kind of the workers that ``auto`` has for GPUs of any make
HOST = ("cpu", "openvino", "xnnpack")  # providers that run on cores

NEEDS: Mapping[str, str] = {
    **dict.fromkeys((ACCELERATOR, "cuda", "tensorrt", "tensorrt-rtx", "migraphx", "webgpu", "directml"), "GPU"),
    **{alias: alias for alias in ("qnn", "coreml")},
    **dict.fromkeys(HOST, ""),
}
"""By kind: of which resource of Ray a worker takes one; none if it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Who gets what of a machine or cluster.

    Attributes:
        workers: How many.
        cpus: Cores that each reserves; a fraction if there are more workers than cores.
        threads: What each does with them.
    """

    workers: int
    cpus: float
    threads: Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster: its id, and how much of each resource it has (``CPU``, ``GPU``, custom ones)."""

    id: str
    resources: Mapping[str, float]

    @property
    def cores(self) -> int:
        """Cores that Ray may give away."""
        return int(self.resources.get("CPU", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What one worker needs, and where.

    Attributes:
        kind: Key of `NEEDS`.
        provider: Execution provider, or ``auto``.
        cpus: Cores that it reserves.
        threads: What it does with them.
        node: That it is bound to; ``None`` for any.
    """

    kind: str
    provider: str
    cpus: float
    threads: Threads
    node: str | None = None

    @property
    def resources(self) -> dict[str, float]:
        """By resource of Ray, how much of it."""
        need = NEEDS[self.kind]
        return {"CPU": self.cpus, **({need: 1.0} if need else {})}


Refused = frozenset[tuple[str, str | None]]
"""Kinds that do not work, each with the node it was bound to."""


def parse_workers(text: str) -> Counts | None:
    """Return the numbers of workers that *text* asks for; ``None`` for ``auto``.

    Raises:
        WorkersError: It is neither ``auto``, ``N`` nor ``KIND=N,...``.
    """
    if text == "auto":
        return None
    counts: dict[str, int] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        kind = (match[1] or CPU) if match else ""
        if match is None or kind not in NEEDS or kind in counts or not 1 <= int(match[2]) <= MOST_WORKERS:
            raise WorkersError(
                f"--workers {text!r}: expected auto, N or cpu=N, or several like cuda=4,cpu=16, with N from 1 to "
                f"{MOST_WORKERS} and each of {', '.join(NEEDS)} at most once"
            )
        counts[kind] = int(match[2])
    return counts


def parse_threads(text: str) -> tuple[int, int]:
    """Return the threads of each worker that *text* asks for: within an inference, and to decode.

    Raises:
        WorkersError: It is not ``SESSION:DECODE``.
    """
    match = _THREADS.fullmatch(text.strip())
    if match is None:
        raise WorkersError(f"--threads {text!r}: expected SESSION:DECODE, each at least 1, like 3:1")
    return int(match[1]), int(match[2])


def divide(cores: int, workers: int | None, largest: int | None = None) -> Division:
    """Return how *workers* (``None``: one a core) share *cores*, of which one machine has *largest* at most."""
    cores = max(1, cores)
    count = workers or cores
    each = max(1, min(cores // count, largest or cores))
    return Division(workers=count, cpus=each if count <= cores else cores / count, threads=_threads(each))


def _threads(cores: int) -> Threads:
    if cores == 1:
        return Threads(decode=0)
    decode = max(1, cores // 4)
    return Threads(session=max(1, cores - decode), decode=decode)


def seats(
    nodes: Sequence[Node],
    counts: Counts | None,
    provider: str,
    most: int,
    refused: Refused = frozenset(),
    *,
    sharing: bool = False,
) -> list[Seat]:
    """Return the seats that a job has in a cluster, the accelerated ones first; none if no node offers what it needs.

    Args:
        nodes: The cluster as it is.
        counts: Of `parse_workers`.
        provider: What the job was asked to run on, or ``auto``.
        most: Seats that there is work for.
        refused: What does not work.
        sharing: Whether the cluster is this machine: it will not grow, and more workers than cores share them.
    """
    if counts is None:
        found = _bound(nodes, provider, refused, grows=not sharing)
    else:
        cores = sum(node.cores for node in nodes)
        largest = max((node.cores for node in nodes), default=1)
        total = sum(counts.values())
        division = divide(cores if sharing else max(cores, total), total, largest)
        found = _wanted(division, counts, provider, refused)
    return list(islice(found, most))


def least(provider: str) -> dict[str, float]:
    """Return what a node must offer, by resource of Ray, so that ``auto`` has a seat there for *provider*."""
    need = NEEDS.get(provider.partition(":")[0], "")
    return {"CPU": 1.0, **({need: 1.0} if need else {})}


def _bound(nodes: Sequence[Node], provider: str, refused: Refused, *, grows: bool) -> Iterator[Seat]:
    """Yield the seats of ``auto``: of accelerators, then of cores; where nothing *grows*, a core may say what lacks."""
    left = []
    for node in nodes:
        kinds = [
            (kind, int(node.resources.get(NEEDS[kind], 0)))
            for kind in _accelerators(provider)
            if (kind, node.id) not in refused
        ]
        total = sum(number for _, number in kinds)
        if not total:
            left.append(node)
            continue
        share = node.cores // total
        for kind, number in kinds:
            wanted = provider if kind == ACCELERATOR else kind
            threads = Threads(decode=max(1, share))
            for _ in range(number):
                yield Seat(kind=kind, provider=wanted, cpus=share, threads=threads, node=node.id)
    if grows and provider != "auto" and provider.partition(":")[0] not in HOST and NEEDS.get(provider):
        return
    for node in left:
        if (CPU, node.id) not in refused:
            for _ in range(node.cores):
                yield Seat(kind=CPU, provider=provider, cpus=1, threads=_threads(1), node=node.id)


def _accelerators(provider: str) -> tuple[str, ...]:
    """Return the kinds that ``auto`` looks for on a node, if the job is to run on *provider*."""
    if provider == "auto":
        return (ACCELERATOR, *(kind for kind, need in NEEDS.items() if need == kind))
    need = NEEDS.get(provider, "")
    return (ACCELERATOR if need == "GPU" else provider,) if need else ()


def _wanted(division: Division, counts: Counts, provider: str, refused: Refused) -> Iterator[Seat]:
    """Yield the seats that were asked for by number."""
    for kind, number in sorted(counts.items(), key=lambda item: (item[0] in HOST, item[0])):
        if (kind, None) in refused:
            continue
        need = NEEDS[kind]
        for _ in range(number):
            yield Seat(
                kind=kind,
                provider=provider if kind in {CPU, ACCELERATOR} else kind,
                cpus=division.cpus,
                threads=Threads(decode=max(1, int(division.cpus))) if need else division.threads,
            )


def machine_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
