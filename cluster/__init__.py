"""Batch inference over image datasets with Ray (DESIGN.md §4).

The names below are loaded when they are first used: importing this package loads neither Ray nor Arrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.job import run_batch
    from cluster.output.read import read_output
    from cluster.planning import BatchOptions
    from cluster.report import Summary

__all__ = ["BatchOptions", "Summary", "read_output", "run_batch"]

_HOME = {
    "BatchOptions": "cluster.planning",
    "Summary": "cluster.report",
    "read_output": "cluster.output.read",
    "run_batch": "cluster.job",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'cluster' has no attribute {name!r}")
