"""Machines that are described, not there."""

from __future__ import annotations

from runtime.hardware import Machine, Part

__all__ = ["machine"]


def machine(*flags: str, parts: tuple[Part, ...] = ()) -> Machine:
    """Return a machine whose processor has *flags*, with *parts* beside it."""
    return Machine(
        architecture="x86_64",
        model="Some CPU",
        vendor="AuthenticAMD",
        cpu_count=2,
        memory_mb=1000,
        cpu_flags=frozenset(flags),
        parts=frozenset({Part.CPU, *parts}),
    )
