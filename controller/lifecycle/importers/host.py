"""The child process that holds a source model open: ``python -P -m controller.lifecycle.importers.host SCRATCH``.

Rules:
    * A job is a line of JSON on stdin, its answer a line on stdout; `OPERATIONS` lists the jobs. Graphs and arrays
      are files, whose paths the parent gives.
    * What a framework prints, in Python or below it, goes to stderr: stdout is put aside before any is loaded.
    * When stdin ends, because the parent closed it or is no more, the process and all that it started end at once, and
      the scratch directory goes, too.
    * An error crosses as the name of its class and its text; a framework that is absent as the module's name.
    * This module is imported by interpreters other than ours: it needs Python 3.11, NumPy and onnx, no more.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from controller.errors import ExportError
from controller.lifecycle.importers.limits import check_size
from controller.lifecycle.importers.source import Array, Job, Source
from runtime.errors import VedetteError

__all__ = ["ABSENT", "OPERATIONS", "Host", "main"]

ABSENT, UNEXPECTED = "absent", "unexpected"


class Host:
    """The open source, and what can be asked of it."""

    def __init__(self) -> None:
        self._source: Source | None = None

    @property
    def _open(self) -> Source:
        if self._source is None:
            raise ExportError("no source is open")
        return self._source

    def open(self, module: str, job: dict[str, Any]) -> dict[str, Any]:
        """Open the source that *job* names with the importer *module*; return its facts."""
        sizes = {name: tuple(job[name]) for name in ("image_size", "prepared_size") if job[name] is not None}
        weights = Path(job["weights"]) if job["weights"] is not None else None
        asked = Job(**{**job, **sizes, "weights": weights})
        self._source = importlib.import_module(module).open_source(asked)
        return asdict(self._open.facts)

    def convert(self, route: str, out: str) -> dict[str, Any]:
        """Write the source as ONNX by *route* to *out*."""
        model = self._open.convert(route)
        check_size(model, "the model")
        onnx.save(model, out)
        return {}

    def run(self, batch: str, out: str) -> dict[str, Any]:
        """Write what the source gives for *batch* to *out*."""
        _write(out, self._open.run(_read(batch)))
        return {}

    def values(self, batch: str, out: str) -> dict[str, Any]:
        """Write what is inside the source for *batch* to *out*; return the names, in the order of the arrays."""
        found = self._open.values(_read(batch))
        _write(out, list(found.values()))
        return {"names": list(found)}


OPERATIONS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "open": Host.open,
    "convert": Host.convert,
    "run": Host.run,
    "values": Host.values,
}


def _read(path: str) -> Array:
    with np.load(path, allow_pickle=False) as arrays:
        batch: Array = arrays["0"]
        return batch


def _write(path: str, arrays: list[Array]) -> None:
    numbered = {str(number): np.asarray(array) for number, array in enumerate(arrays)}
    if unfit := [f"{number} ({array.dtype})" for number, array in numbered.items() if array.dtype.kind not in "fiub"]:
        raise ExportError(f"the source gives other things than numbers: outputs {', '.join(unfit)}")
    np.savez(path, **numbered)  # type: ignore[arg-type]  # its one other keyword is no digit


def _answer(host: Host, line: bytes) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(line)
    operation = OPERATIONS[request.pop("do")]
    try:
        return operation(host, **request)
    except VedetteError as error:
        return {"error": type(error).__name__, "text": str(error)}
    except ModuleNotFoundError as error:
        traceback.print_exc()
        return {"error": ABSENT, "text": error.name or str(error)}
    except Exception as error:  # noqa: BLE001 -- whatever a framework raises is the answer, not the end
        traceback.print_exc()
        return {"error": UNEXPECTED, "text": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _put_aside() -> tuple[IO[bytes], IO[bytes]]:
    """Return stdin and stdout for jobs and answers alone; whoever else prints prints to stderr."""
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return jobs, answers


def _end_all(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _read_jobs(jobs: IO[bytes], waiting: queue.SimpleQueue[bytes], scratch: Path) -> None:
    for line in jobs:
        waiting.put(line)
    _end_all(scratch)


def main(scratch: Path) -> None:
    """Answer jobs until stdin ends; the parent's directory *scratch* then goes."""
    jobs, answers = _put_aside()
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs, waiting, scratch), daemon=True).start()
    host = Host()
    while True:
        answers.write(json.dumps(_answer(host, waiting.get())).encode() + b"\n")
        answers.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
