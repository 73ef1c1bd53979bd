"""A small artifact of our own, to prove an execution provider on a machine that has no model yet.

`tests/unit/runtime/test_probe.py` says how it was made, and that it still is what that makes.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["PROBE_VARIANT", "probe_root"]

PROBE_VARIANT = "fp32"


def probe_root() -> Path:
    """Return the directory of the artifact."""
    return Path(__file__).parent / "artifact"
