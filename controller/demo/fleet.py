"""The demo's fleet: a controller and three agents, and what the devices report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.demo.processes import Processes, wait_until
from controller.demo.report import check

__all__ = ["DEVICES", "Fleet"]

DEVICES = {"cam-1": "lab", "cam-2": "field", "cam-3": "field"}  # device: site
READY_SECONDS = 60.0
ROLLOUT_SECONDS = 180.0
SERVED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running controller and its devices, driven through the `vedette` command."""

    processes: Processes
    root: Path

    def start_controller(self) -> str:
        """Start the controller with its embedded broker on free ports; return its URL."""
        self.processes.serve(
            "controller", "vedette", "controller", "serve", "--listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0"
        )
        state = self.root / "home" / "controller" / "server.json"

        def ready() -> dict[str, Any] | None:
            self.processes.check_alive()
            return json.loads(state.read_text()) if state.exists() else None

        return str(wait_until("the controller", ready, READY_SECONDS)["url"])

    def start_agent(self, device: str, site: str) -> None:
        """Enrol *device* and start its agent, which looks at the held-out digits forever."""
        bundle, home = self.root / f"{device}.bundle.json", self.agent_home(device)
        self.processes.run("vedette", "device", "enroll", device, "--label", f"site={site}", "--out", bundle)
        self.processes.run("vedette-agent", "enroll", bundle, "--home", home)
        self.processes.serve(device, "vedette-agent", "run", "--home", home, "--source", "digits#test", "--fps", "10")

    def agent_home(self, device: str) -> Path:
        """Return where the agent of *device* keeps its state."""
        return self.root / "agents" / device

    def wait_online(self) -> list[str]:
        """Wait until every device is online; return their ids."""

        def all_online() -> list[str] | None:
            self.processes.check_alive()
            online = [d["id"] for d in self.devices() if d["status"] == "online"]
            return online if set(online) == set(DEVICES) else None

        return wait_until(f"{len(DEVICES)} devices online", all_online, READY_SECONDS)

    def devices(self) -> list[dict[str, Any]]:
        """Return what the controller knows of every device."""
        found: list[dict[str, Any]] = self.processes.run_json("vedette", "device", "list")
        return found

    def reported(self, device: str) -> dict[str, Any]:
        """Return what *device* last reported of itself."""
        report: dict[str, Any] = self.processes.run_json("vedette", "device", "show", device)["reported"] or {}
        return report

    def serving(self) -> dict[str, str | None]:
        """Return the model that each device reports to be serving: ``NAME@VERSION`` or ``None``."""
        active = {device: self.reported(device).get("active") for device in DEVICES}
        return {device: f"{a['model']}@{a['version']}" if a else None for device, a in active.items()}

    def check_serving(self, reference: str) -> None:
        """Check that every device reports *reference* as the model that serves, and goes on predicting with it."""
        serving = self.serving()
        check(set(serving.values()) == {reference}, f"devices serve {serving}; expected {reference} on all")
        before = {device: self._predictions(device) for device in DEVICES}
        wait_until(
            f"new predictions of {reference} on every device",
            lambda: all(self._predictions(d, reference) > before[d] for d in DEVICES) or None,
            SERVED_SECONDS,
        )

    def _predictions(self, device: str, reference: str | None = None) -> int:
        """Return how many lines the device's results file has, if the last one is by *reference*."""
        lines = (self.agent_home(device) / "results.jsonl").read_text().splitlines()
        if reference is not None and (not lines or json.loads(lines[-1])["model"] != reference):
            return -1
        return len(lines)

    def roll_out(self, reference: str, waves: str, *, expect_success: bool) -> dict[str, Any]:
        """Roll *reference* out to all in *waves*, watch it to its end, and return the rollout."""
        created = self.processes.run_json(
            "vedette", "rollout", "create", reference, "--target", "all", "--waves", waves,
            "--soak", "2s", "--probation", "2", "--device-timeout", "2m",
        )  # fmt: skip
        rollout = str(created["id"])
        self.processes.run("vedette", "rollout", "watch", rollout, expect=(0,) if expect_success else (1,))
        shown: dict[str, Any] = self.processes.run_json("vedette", "rollout", "show", rollout)
        return shown
