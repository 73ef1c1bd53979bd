"""Execution providers (EPs): which there are, which to try where, and how a session is opened on one.

Rules:
    * What ONNX Runtime lists is a claim; `runtime.proof` decides.
    * One table (`catalog.PREFERENCE`) says what is preferred where; no code asks for an EP by name.
    * The CPU EP is the last candidate everywhere.
    * Importing this package loads neither ONNX Runtime nor NumPy: the agent's daemon does.
"""

from __future__ import annotations

from runtime.providers.catalog import ALIASES, CPU, LEGACY, PREFERENCE, PROVIDERS, REPLACED, PlugIn, Provider
from runtime.providers.explain import explain, last_error
from runtime.providers.lookup import canonical, find, preferences, resolve
from runtime.providers.origin import (
    FLAVOURS,
    Origin,
    claimed,
    flavours,
    installed_plugins,
    is_installed,
    origin_of,
    ort_version,
)

__all__ = [
    "ALIASES",
    "CPU",
    "FLAVOURS",
    "LEGACY",
    "PREFERENCE",
    "PROVIDERS",
    "REPLACED",
    "Origin",
    "PlugIn",
    "Provider",
    "canonical",
    "claimed",
    "explain",
    "find",
    "flavours",
    "installed_plugins",
    "is_installed",
    "last_error",
    "origin_of",
    "ort_version",
    "preferences",
    "resolve",
]
