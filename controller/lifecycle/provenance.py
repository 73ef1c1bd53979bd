"""Where a model came from: facts for the manifest, read once."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["git_revision"]

TIMEOUT = 10.0  # seconds


def git_revision(directory: Path | None = None) -> str | None:
    """Return the commit checked out in *directory* (default: the working one), with ``-dirty`` if files differ from it.

    Returns:
        ``None`` where there is no repository, no commit, or no git.
    """
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
