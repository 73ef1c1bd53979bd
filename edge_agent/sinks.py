"""Where results go: JSON lines in a bounded file (one object a frame).

Rules:
    * A line is written whole or not at all: one `write` to a file opened for appending.
    * The file is renamed to ``<name>.1`` when it is full, and what was ``.1`` is gone: a device that
      nobody visits must not fill its disk.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from edge_agent.camera.sources import Frame
from runtime.protocol.messages import ModelState
from runtime.tasks import Prediction
from runtime.tasks.records import as_json, record_of

__all__ = ["JsonLines", "Sink", "result_of"]

MAX_BYTES = 64 * 2**20


class Sink(Protocol):
    """A place that results go to."""

    def write(self, result: dict[str, Any]) -> None:
        """Take one result."""

    def close(self) -> None:
        """Take no more."""


class JsonLines:
    """Results as JSON lines in *path*, at most *max_bytes* and as many again in ``<path>.1``."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, result: dict[str, Any]) -> None:
        """Append *result*."""
        line = json.dumps(result, ensure_ascii=False).encode() + b"\n"
        if self._file.tell() + len(line) > self._max_bytes and self._file.tell():
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def result_of(frame: Frame, prediction: Prediction, model: ModelState) -> dict[str, Any]:
    """Return what a sink writes: which model said what of which frame; masks are PNGs as base64 text."""
    return {
        "time": datetime.now(UTC).isoformat(),
        "frame": frame.number,
        "source": frame.name,
        "model": f"{model.model}@{model.version}",
        "variant": model.variant,
        "provider": model.provider,
        **as_json(record_of(prediction)),
    }
