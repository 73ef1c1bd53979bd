"""The connection to a Ray cluster: one that is there, or one of our own on this machine.

Rules:
    * What this module started it ends; a cluster that was there before stays.
    * A cluster that does not answer is an error within seconds, not a wait.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.errors import PoolError
from cluster.pool.seats import Node

__all__ = ["cluster_nodes", "ray_session"]

CONNECT_TIMEOUT = 5.0  # seconds
OBJECT_STORE = 256 * 1024**2  # bytes; answers of actors lie there, and models where workers lack them


@contextmanager
def ray_session(address: str | None, cores: int) -> Iterator[bool]:
    """Be connected to Ray, and yield whether its cluster was started here for that.

    Args:
        address: Of a cluster; ``RAY_ADDRESS`` counts too; without either one is started here.
        cores: That a cluster started here has.

    Raises:
        PoolError: There is no cluster at *address*, or none could be started.
    """
    if ray.is_initialized():
        yield False
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
            yield address == "local"
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


def cluster_nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive, in the order of their ids."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return sorted((Node(id=node["NodeID"], resources=node["Resources"]) for node in alive), key=lambda node: node.id)
