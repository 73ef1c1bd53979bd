"""A fleet in a test: a real controller and real agents, each a process of its own, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from color_model import picture, write_artifact

from controller.demo.sabotage import publish_broken
from controller.registry.publish import publish
from runtime.client import Client
from runtime.protocol.bundle import Bundle
from runtime.store import ModelStore

Value = TypeVar("Value")
BIN = Path(sys.executable).parent
PATIENCE = 40.0  # seconds; two busy cores are slow


def wait_for(what: str, look: Callable[[], Value | None], seconds: float = PATIENCE) -> Value:
    """Return the first true answer of *look*."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := look():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s for {what}; last seen {answer!r}")


class Lab:
    """Processes over one home; everything is ended by `close`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.environment = os.environ | {"VEDETTE_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.controller: subprocess.Popen[str] | None = None
        self.agents: dict[str, subprocess.Popen[str]] = {}
        self.images = root / "images"
        self.images.mkdir(parents=True)
        for color in range(3):
            (self.images / f"{color}.png").write_bytes(picture(color))

    # --- models -----------------------------------------------------------------------------------

    def publish(self, version: int, *, broken: bool = False) -> None:
        """Publish the color classifier as its next version, which must be *version*."""
        store = ModelStore.open(self.home / "store")
        artifact = write_artifact(self.root / f"artifact-{version}", version)
        if broken:
            manifest = publish_broken(artifact, store, self.root / f"broken-{version}")
        else:
            manifest = publish(store, artifact.root, artifact.manifest)
        assert manifest.version == version

    # --- commands ---------------------------------------------------------------------------------

    def run(self, *command: str | Path, expect: int = 0, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and check its exit code."""
        done = subprocess.run(
            [BIN / str(command[0]), *command[1:]],
            env=self.environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == expect, f"{command} exited with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def json(self, *command: str | Path) -> Any:
        """Return what a command prints as JSON."""
        return json.loads(self.run(*command, "--json").stdout)

    def _start(self, name: str, *command: str | Path) -> subprocess.Popen[str]:
        with (self.root / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [BIN / str(command[0]), *command[1:]], env=self.environment, stdout=log, stderr=log, text=True
            )

    # --- the controller ---------------------------------------------------------------------------

    def start_controller(
        self,
        *options: str,
        listen: str = "127.0.0.1:0",
        broker: str = "127.0.0.1:0",
        before_ready: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Start the controller, and return what it says of itself once it is ready.

        *before_ready* is called again and again while we wait: what a broker needs to come up.
        """
        place = self.home / "controller" / "server.json"
        place.unlink(missing_ok=True)  # of one that was killed
        addresses = ["--listen", listen]
        if "--broker" not in options:
            addresses += ["--broker-listen", broker]
        self.controller = self._start("controller", "vedette", "controller", "serve", *addresses, *options)
        return wait_for("the controller", lambda: before_ready() or self._said(place))

    def _said(self, place: Path) -> dict[str, Any] | None:
        assert self.controller is not None
        assert self.controller.poll() is None, (self.root / "controller.log").read_text()
        return json.loads(place.read_text()) if place.exists() else None

    def stop_controller(self, number: int = signal.SIGTERM) -> int:
        """End the controller, and return its exit code."""
        assert self.controller is not None
        self.controller.send_signal(number)
        code = self.controller.wait(20)
        self.controller = None
        return code

    @contextlib.contextmanager
    def api(self) -> Iterator[Client]:
        """Open a client of the controller, as the admin."""
        said = json.loads((self.home / "controller" / "server.json").read_text())
        with Client(said["url"], Path(said["token_file"]).read_text().strip()) as client:
            yield client

    def get(self, path: str) -> Any:
        """Return what the API has at *path*."""
        with self.api() as client:
            return client.get(path)

    # --- devices ----------------------------------------------------------------------------------

    def enroll(self, device: str, **labels: str) -> Bundle:
        """Make *device* part of the fleet, and return its bundle."""
        pairs = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        path = self.root / f"{device}.json"
        self.run("vedette", "device", "enroll", device, *pairs, "--out", path)
        return Bundle.read(path)

    def start_agent(self, device: str) -> None:
        """Start the agent of an enrolled device."""
        home = self.root / "agents" / device
        self.run("vedette-agent", "enroll", self.root / f"{device}.json", "--home", home)
        source = f"file://{self.images}/*.png"
        self.agents[device] = self._start(
            device, "vedette-agent", "run", "--home", home, "--source", source, "--fps", "20"
        )

    def add_devices(self, *devices: str, **labels: str) -> None:
        """Enrol devices and start their agents; returns once all are online."""
        for device in devices:
            self.enroll(device, **labels)
            self.start_agent(device)
        wait_for(
            "devices online", lambda: set(devices) <= {d["id"] for d in self.get("/devices") if d["status"] == "online"}
        )

    def serving(self) -> dict[str, str]:
        """Return which version each device reports to be serving."""
        found = {d["id"]: (d["reported"] or {}).get("active") for d in self.get("/devices")}
        return {device: f"{active['model']}@{active['version']}" if active else "-" for device, active in found.items()}

    # --- rollouts ---------------------------------------------------------------------------------

    def create_rollout(self, model: str, *options: str, waves: str = "1,100%") -> str:
        """Start a rollout with a short probation, and return its id."""
        made = self.json(
            "vedette", "rollout", "create", model, "--target", "all", "--waves", waves,
            "--soak", "0", "--probation", "0.5", "--device-timeout", "60s", *options,
        )  # fmt: skip
        return str(made["id"])

    def roll_out(self, model: str, *options: str, waves: str = "1,100%", expect: int = 0) -> dict[str, Any]:
        """Start a rollout, watch it to its end, and return it."""
        rollout = self.create_rollout(model, *options, waves=waves)
        self.run("vedette", "rollout", "watch", rollout, expect=expect, seconds=90)
        return self.get(f"/rollouts/{rollout}")

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """End every process."""
        processes = [*self.agents.values(), *([self.controller] if self.controller else [])]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()


@contextlib.contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """Open a lab below *root*."""
    opened = Lab(root)
    try:
        yield opened
    finally:
        opened.close()
