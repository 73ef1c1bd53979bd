"""A real Ray cluster of one node, with its dashboard or without, in processes of its own on free ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PATIENCE", "RayHead", "free_ports", "ray_head"]

PATIENCE = 90.0  # seconds until it answers; two busy cores are slow
METRICS_INTERVAL = 500  # milliseconds, of a cluster with a dashboard; Ray takes ten seconds by itself


@dataclass(frozen=True, slots=True)
class RayHead:
    """Where the cluster is."""

    pid: int  # of the process that has all others of the node below it
    dashboard: str  # URL of the dashboard and job server
    address: str  # HOST:PORT that drivers connect to
    metrics: str  # URL that Prometheus reads


def free_ports(count: int) -> list[int]:
    """Return *count* ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def ray_head(cores: int = 2, object_store: int = 100 * 1024**2, *, served: bool = True) -> Iterator[RayHead]:
    """Run a head node with so many *cores* and bytes of shared memory, and end every process of it.

    Args:
        cores: That it offers.
        object_store: Bytes.
        served: Whether it has its dashboard and job server.
    """
    root = Path(tempfile.mkdtemp(prefix="vr-"))  # short: a socket's path has a limit
    port, dashboard, metrics, agent, client = free_ports(5)
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # a job's driver is called `python`
    }
    if served:
        environment["RAY_metrics_report_interval_ms"] = str(METRICS_INTERVAL)
    log = root / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats",
                f"--num-cpus={cores}", f"--port={port}", "--node-ip-address=127.0.0.1",
                f"--include-dashboard={served}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}",
                f"--ray-client-server-port={client}", f"--temp-dir={root}/t", f"--object-store-memory={object_store}",
            ],
            env=environment, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(dashboard if served else port, process, log)
        yield RayHead(
            pid=process.pid,
            dashboard=f"http://127.0.0.1:{dashboard}",
            address=f"127.0.0.1:{port}",
            metrics=f"http://127.0.0.1:{metrics}/metrics",
        )
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens within {PATIENCE:.0f} s: {log.read_text()}")
