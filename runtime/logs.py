"""Logs of our own processes: to stderr, for people on a terminal, as JSON lines otherwise.

Rules:
    * Who logs takes its logger from `get_logger`; who logs nothing does not load structlog (50 ms of each command).
    * Only a process that is ours is configured (`configure_logging`). One that imports us logs as it likes.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from threading import Event
from typing import Any

from runtime.absent import absent

__all__ = ["configure_logging", "get_logger"]

_OURS = Event()  # set in a process that is


def configure_logging() -> None:
    """Log as a process of ours does, from the first logger on."""
    _OURS.set()
    if "structlog" in sys.modules:
        _configure()


def get_logger(name: str) -> Any:
    """Return structlog's logger called *name*."""
    ours = _OURS.is_set()
    with absent("rich") if ours else nullcontext():  # structlog would load it, if it is there, for prettier tracebacks
        import structlog
    if ours and not structlog.is_configured():
        _configure()
    return structlog.get_logger(name)


def _configure() -> None:
    import structlog

    renderer: Any = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(sort_keys=True)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the stream of each moment: tests replace it
    )
