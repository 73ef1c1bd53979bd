"""Where state lives: everything under `VEDETTE_HOME`, one property a place.

The default is the platform's user data directory. Nothing outside it is written, except what a
command's own arguments name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import platformdirs

__all__ = ["Home"]


@dataclass(frozen=True, slots=True)
class Home:
    """The directories and files below one `VEDETTE_HOME`."""

    root: Path

    @classmethod
    def from_environment(cls) -> Self:
        """Return the home that ``VEDETTE_HOME`` names, or the platform's default."""
        return cls(Path(os.environ.get("VEDETTE_HOME") or platformdirs.user_data_path("vedette")).absolute())

    @property
    def store(self) -> Path:
        """The default artifact store: published models."""
        return self.root / "store"

    @property
    def cache(self) -> Path:
        """What can be thrown away: pulled artifacts, proofs of execution providers."""
        return self.root / "cache"

    @property
    def controller(self) -> Path:
        """The controller's database, keys, tokens and broker."""
        return self.root / "controller"
