"""What the agent and a runner process say to each other: JSON lines on the runner's stdin and stdout.

    agent                          runner
      │ argv[1]: RunnerSpec          │
      │ ──────────────────────────▶  │ builds the session, warms up
      │ ◀──────────────────── Ready  │ idle: sees no frame
      │ Serve(position) ──────────▶  │
      │ ◀────────────────── Serving  │ frames from `position` on, results to the sink
      │ ◀──────────────────── Stats  │ every `stats_interval` seconds, idle or not
      │ Stop ─────────────────────▶  │ finishes the frame at hand
      │ ◀────────── Stopped(position)│ and exits with 0

Rules:
    * End of stdin means the same as `Stop`: a runner never outlives its agent.
    * stdout carries nothing else; what libraries print goes to stderr.
    * `Failed` says in one line why the runner cannot serve; it exits with 1 after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from runtime.protocol.messages import ModelState

__all__ = [
    "COMMANDS",
    "REPORTS",
    "Failed",
    "Ready",
    "Report",
    "RunnerSpec",
    "Serve",
    "Serving",
    "Stats",
    "Stop",
    "Stopped",
]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def line(self) -> bytes:
        """Return the message as one line."""
        return self.model_dump_json().encode() + b"\n"


class RunnerSpec(_Line):
    """What a runner shall run."""

    slot: Path  # directory of the artifact
    model: ModelState
    source: str | None  # URI; None: no frames
    fps: float  # frames a second at most
    results: Path  # JSON lines
    stats_interval: float  # seconds
    parent: int  # process id of the agent


class Serve(_Line):
    """Begin with the frame number *position* of the source."""

    kind: Literal["serve"] = "serve"
    position: int = 0


class Stop(_Line):
    """Finish and exit."""

    kind: Literal["stop"] = "stop"


class Ready(_Line):
    """The session is built and warm."""

    kind: Literal["ready"] = "ready"


class Serving(_Line):
    """From now on results are of this runner."""

    kind: Literal["serving"] = "serving"


class Stats(_Line):
    """What the runner did so far; the counts are totals of this process."""

    kind: Literal["stats"] = "stats"
    frames: int = 0  # that gave a result
    errors: int = 0  # of inference: the model's or the provider's fault
    bad_frames: int = 0  # that were no usable picture: the source's fault
    lost_results: int = 0  # that the sink did not take: the disk is full
    latency_ms: float | None = None  # median from picture to prediction, since the last report
    rss_bytes: int = 0
    waiting: bool = True  # for nothing to come: no source, or a source that ended


class Stopped(_Line):
    """The last words of a runner that was asked to stop."""

    kind: Literal["stopped"] = "stopped"
    position: int  # of the next frame


class Failed(_Line):
    """The last words of a runner that cannot serve."""

    kind: Literal["failed"] = "failed"
    message: str


Report = Ready | Serving | Stats | Stopped | Failed
REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])
COMMANDS: TypeAdapter[Serve | Stop] = TypeAdapter(Annotated[Serve | Stop, Field(discriminator="kind")])
