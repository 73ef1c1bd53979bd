"""Where the agent keeps its state, and what it may be told on the command line.

Rules:
    * Everything lies under one directory: `VEDETTE_AGENT_HOME`, else ``/var/lib/vedette-agent`` for
      root, else the platform's user data directory.
    * The enrolment bundle is a secret and stands alone in its file, mode 0600.
    * One agent a home: whoever runs holds `AgentHome.lock`.
    * Settings are one frozen object with units in the comments; nothing else reads the environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import platformdirs

from edge_agent.errors import EnrolmentError
from runtime.errors import HomeError
from runtime.protocol.bundle import Bundle

__all__ = ["AgentHome", "Settings"]

_ENVIRONMENT = "VEDETTE_AGENT_HOME"


@dataclass(frozen=True, slots=True)
class AgentHome:
    """The files below the agent's home directory."""

    root: Path

    @classmethod
    def resolve(cls, given: Path | None = None) -> Self:
        """Return the home *given*, or the one that the environment names, or the platform's default."""
        if given is None and (named := os.environ.get(_ENVIRONMENT)):
            given = Path(named)
        if given is None:
            given = (
                Path("/var/lib/vedette-agent") if os.geteuid() == 0 else platformdirs.user_data_path("vedette-agent")
            )
        return cls(given.expanduser().absolute())

    def create(self) -> None:
        """Create the directory; only its owner may look inside.

        Raises:
            HomeError: It cannot be created or is no directory.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeError(f"agent home {self.root} is not usable: {error.strerror}; set {_ENVIRONMENT}") from None

    @property
    def bundle(self) -> Path:
        """The enrolment bundle; a secret."""
        return self.root / "bundle.json"

    @property
    def lock(self) -> Path:
        """Held by the agent that runs."""
        return self.root / "agent.lock"

    @property
    def state(self) -> Path:
        """What `vedette-agent status` reads."""
        return self.root / "state.json"

    @property
    def ledger(self) -> Path:
        """The last assignment seen, and what became of it."""
        return self.root / "ledger.json"

    @property
    def slots(self) -> Path:
        """The models: ``a``, ``b`` and the link ``active``."""
        return self.root / "slots"

    @property
    def chunks(self) -> Path:
        """Chunks of an update under way."""
        return self.root / "chunks"

    @property
    def spool(self) -> Path:
        """Events and telemetry that the broker has not taken yet."""
        return self.root / "spool.sqlite"

    @property
    def results(self) -> Path:
        """The default results file."""
        return self.root / "results.jsonl"

    def enrol(self, bundle: Bundle, *, force: bool = False) -> None:
        """Store *bundle*; a new identity forgets the old one's assignments.

        Raises:
            EnrolmentError: The device is enrolled as another device, and *force* was not given.
            HomeError: The home is not usable.
        """
        self.create()
        known = Bundle.read(self.bundle) if self.bundle.exists() else None
        same = known is not None and (known.fleet, known.device) == (bundle.fleet, bundle.device)
        if known is not None and not same and not force:
            raise EnrolmentError(
                f"{self.root} is enrolled as device {known.device!r} of fleet {known.fleet!r}, not as "
                f"{bundle.device!r} of {bundle.fleet!r}; give --force to enrol it anew"
            )
        if known is not None and (force or not same):
            self.ledger.unlink(missing_ok=True)
        bundle.write(self.bundle)

    def load_bundle(self) -> Bundle:
        """Return the stored bundle.

        Raises:
            EnrolmentError: There is none.
            ProtocolError: It is not valid.
        """
        try:
            return Bundle.read(self.bundle)
        except FileNotFoundError:
            raise EnrolmentError(
                f"not enrolled: there is no {self.bundle}; run 'vedette-agent enroll BUNDLE' first"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one run of the agent may be told; the defaults fit a Raspberry Pi on a slow link."""

    source: str | None = None  # URI of the images; None: runners are ready and idle
    fps: float = 5.0  # frames a second at most
    results: Path | None = None  # JSON lines; None: the home's own file
    telemetry_interval: float = 10.0  # seconds between batches of samples
    stats_interval: float = 1.0  # seconds between a runner's reports
    start_timeout: float = 120.0  # seconds until a runner must be warm
    stop_timeout: float = 2.0  # seconds until a runner that was asked to end is killed
    stall_timeout: float = 30.0  # seconds without a report until a runner counts as hung
    proof_timeout: float = 120.0  # seconds for one proof of an execution provider
    chunk_timeout: float = 5.0  # seconds without a chunk until the rest of a window is asked for again; doubles
    chunk_timeout_most: float = 60.0  # seconds; where the doubling ends
    fetch_attempts: int = 8  # windows in a row that may bring nothing
    restart_delay: float = 0.5  # seconds before a crashed runner starts again; doubles
    restart_delay_most: float = 30.0  # seconds; where the doubling ends
    reconnect_delay: float = 1.0  # seconds before the first new attempt to reach the broker; doubles, with jitter
    reconnect_delay_most: float = 60.0  # seconds; where the doubling ends
    spool_rows: int = 10_000  # messages a channel; the oldest go first
