"""What every benchmark keeps beside its figures, and where it keeps them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "TEST_DATA", "environment", "keep"]

RESULTS = Path(__file__).parent / "results"
TEST_DATA = Path(os.environ.get("VEDETTE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def environment(packages: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Return what a figure depends on: the time, the machine, *facts*, and the versions of Vedette and *packages*."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 2),
        **facts,
        "versions": {name: version(name) for name in ("vedette", *packages)},
    }


def keep(document: Mapping[str, Any], path: Path) -> None:
    """Write *document* to *path* as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
