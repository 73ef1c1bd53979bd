"""A Ray cluster whose head has no core, and whose autoscaler brings nodes as they are asked for.

It is Ray's own autoscaler, with its provider of nodes that are processes of this machine. (Ray's
`AutoscalingCluster` ends every Ray on the machine before it starts, whoever's it is; this one minds its own.)
"""

from __future__ import annotations

import json
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

import psutil
from batch_runs import processes_of
from ray_head import PATIENCE, free_ports

__all__ = ["Autoscaled", "autoscaled"]

OBJECT_STORE = 80 * 1024**2  # bytes, of each node
NODE_TYPE = "cores"
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


@dataclass(frozen=True, slots=True)
class Autoscaled:
    """The cluster.

    Attributes:
        address: HOST:PORT that drivers connect to.
        home: VEDETTE_HOME of its processes.
    """

    address: str
    home: Path

    def nodes(self) -> list[int]:
        """Return the processes of the nodes that are there, the head's too."""
        return [process.pid for process in processes_of(self.home) if _name_of(process) == "raylet"]


def _name_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""


def _configuration(port: int, cores: int, most: int) -> dict[str, object]:
    """Return what `ray start --autoscaling-config` reads: at most *most* nodes, of *cores* cores each."""
    return {
        "cluster_name": "autoscaled",
        "max_workers": most,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            NODE_TYPE: {
                "resources": {"CPU": cores, "object_store_memory": OBJECT_STORE},
                "node_config": {},
                "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{when}_commands": [] for when in COMMANDS},
    }


@contextmanager
def autoscaled(home: Path, *, cores: int, most: int) -> Iterator[Autoscaled]:
    """Run a head without a core, whose autoscaler may bring *most* nodes of *cores* cores; end all of it.

    Args:
        home: VEDETTE_HOME of its processes, by which they are known.
        cores: Of a node.
        most: Nodes besides the head.
    """
    root = Path(tempfile.mkdtemp(prefix="va-"))  # short: a socket's path has a limit
    port, client, agent = free_ports(3)
    configuration = root / "autoscaler.json"
    configuration.write_text(json.dumps(_configuration(port, cores, most)))
    environment = os.environ | {
        "VEDETTE_HOME": str(home),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    log = root / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats",
                "--num-cpus=0", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
                f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
                f"--temp-dir={root}/t", f"--object-store-memory={OBJECT_STORE}",
                f"--autoscaling-config={configuration}",
            ],
            env=environment, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(port, process, log)
        yield Autoscaled(f"127.0.0.1:{port}", home)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for left in processes_of(home):  # the nodes that the autoscaler brought are nobody's children
            with suppress(psutil.Error):
                left.kill()
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        if "Ray runtime started" in log.read_text():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
        time.sleep(0.2)
    raise AssertionError(f"no head within {PATIENCE:.0f} s: {log.read_text()}")
