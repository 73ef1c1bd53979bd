"""How the command line finds a running controller on this machine: two files in its home."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.home import Home

__all__ = ["Presence"]


@dataclass(frozen=True, slots=True)
class Presence:
    """The files of one home."""

    home: Home

    @property
    def path(self) -> Path:
        """``server.json``: where the controller is, for as long as it runs."""
        return self.home.controller / "server.json"

    @property
    def token(self) -> Path:
        """The admin's token, mode 0600."""
        return self.home.controller / "admin.token"
