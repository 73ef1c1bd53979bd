"""The state file: what `vedette-agent status` shows, broker or not.

Rules:
    * The agent writes it when something changed; it is small, whole, and no secret.
    * Whether the agent runs is not read from it: a process of that id and start time must exist.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.files import replace_bytes
from runtime.protocol.messages import Reported

__all__ = ["LocalState", "read_state"]

_SLACK = 2.0  # seconds by which two readings of one process's start may differ


class LocalState(BaseModel):
    """What the agent says of itself on its own disk."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    started: float  # of the process, seconds since the epoch
    fleet: str
    broker: str
    connected: bool
    restarts: int  # of runners, since the agent started
    last_death: str  # why the last of them was needed; empty if there was none
    waiting: int  # messages in the spool
    reported: Reported

    @classmethod
    def identity(cls) -> dict[str, float | int]:
        """Return the fields that name the calling process."""
        return {"pid": os.getpid(), "started": psutil.Process().create_time()}

    @property
    def running(self) -> bool:
        """Whether the agent that wrote it runs."""
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) < _SLACK)
        except psutil.NoSuchProcess:
            return False

    def write(self, path: Path) -> None:
        """Write the state to *path*."""
        replace_bytes(path, self.model_dump_json(indent=1).encode())


def read_state(path: Path) -> LocalState | None:
    """Return the state in the file *path*, or None if there is none that can be read."""
    try:
        return LocalState.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
