"""The parent's end of `controller.lifecycle.importers.host`: a child process that holds one source model open.

Rules:
    * The child sees our packages through links in a scratch directory, and nothing else of our environment: its
      interpreter may be another one, with pins of its own.
    * It dies with `Child.close`, with an answer that is not given in time, and with this process; it is in a
      session of its own, so that what it started dies with it, and Ctrl-C reaches it through its parent alone.
    * Its stderr is kept in a file, whose end comes with the error when it dies or hangs.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx

import controller
import runtime
from controller.errors import ExportError, TrainingError
from controller.lifecycle.graph import load_graph
from controller.lifecycle.importers.source import Job, SourceFacts
from controller.lifecycle.training.frameworks import extra_of
from runtime.errors import DatasetError, UsageError, VedetteError

__all__ = ["OPERATIONS", "PYTHON_VARIABLE", "Child", "Operation"]

PYTHON_VARIABLE = "VEDETTE_IMPORTER_PYTHON"
HOST = "controller.lifecycle.importers.host"
ABSENT = "absent"  # as the host says it
FRAMEWORKS_MUST: Mapping[str, str] = {"CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "torch", "PYTHONUNBUFFERED": "1"}
"""What frameworks read when they are loaded: they compute on the CPU, where the graph does; Keras on torch."""
TAIL = 400  # characters of stderr that come with an error
ERRORS: Mapping[str, type[VedetteError]] = {
    error.__name__: error for error in (UsageError, ExportError, TrainingError, DatasetError)
}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked of the child, in words for an error, and how long it may take."""

    what: str
    seconds: float


OPERATIONS: Mapping[str, Operation] = {
    "open": Operation("opened", 900),
    "convert": Operation("converted", 3600),
    "run": Operation("run", 900),
    "values": Operation("looked into", 3600),
}


class Child:
    """A process that holds a source model open.

    Args:
        source: That it will open, in words for errors.
        needs: The extra of ours that brings the framework; ``None``: the one that brings the module that is missing.
        python: Its interpreter; ``None``: as the environment says, or ours.
        ours: It is our interpreter, whatever the environment says.
        operations: What can be asked of it.

    Raises:
        UsageError: *python* cannot be run.
    """

    def __init__(
        self,
        source: str,
        needs: str | None,
        python: Path | None = None,
        *,
        ours: bool = False,
        operations: Mapping[str, Operation] = OPERATIONS,
    ) -> None:
        self._source, self._needs, self._operations = source, needs, operations
        named = None if ours else python or os.environ.get(PYTHON_VARIABLE)
        self._python = str(named or sys.executable)
        self._scratch = tempfile.TemporaryDirectory(prefix="vedette-importer-")
        self._files = 0
        self._unread = b""
        directory = Path(self._scratch.name)
        self._stderr = directory / "stderr"
        try:
            self._process = self._start(directory)
        except OSError as error:
            self._scratch.cleanup()
            raise UsageError(f"--importer-python {self._python}: {error.strerror}") from None

    def _start(self, directory: Path) -> subprocess.Popen[bytes]:
        links = directory / "packages"
        links.mkdir()
        for package in (controller, runtime):
            (links / package.__name__).symlink_to(Path(package.__path__[0]), target_is_directory=True)
        path = os.pathsep.join([str(links), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **FRAMEWORKS_MUST, "PYTHONPATH": path}
        with self._stderr.open("wb") as log:
            return subprocess.Popen(
                [self._python, "-P", "-m", HOST, str(directory)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def open(self, module: str, job: Job) -> SourceFacts:
        """Open the source with the importer *module*.

        Raises:
            VedetteError: It cannot be opened, or the framework is not there.
        """
        weights = str(job.weights) if job.weights is not None else None
        answer = self._ask("open", module=module, job={**asdict(job), "weights": weights})
        listed = {name: tuple(answer[name]) for name in ("routes", "warnings")}
        labels = tuple(answer["labels"]) if answer["labels"] is not None else None
        return SourceFacts(**{**answer, **listed, "labels": labels})

    def convert(self, route: str) -> onnx.ModelProto:
        """Return the source as ONNX by *route*.

        Raises:
            ExportError: It cannot be converted so.
        """
        out = self._file("graph.onnx")
        try:
            self._ask("convert", route=route, out=str(out))
            return load_graph(out)
        finally:
            out.unlink(missing_ok=True)

    def run(self, batch: Array) -> list[Array]:
        """Return what the source gives for *batch*.

        Raises:
            ExportError: It does not run.
        """
        return self._compute("run", batch)[1]

    def values(self, batch: Array) -> dict[str, Array]:
        """Return what is inside the source for *batch*, by the names in the graph.

        Raises:
            ExportError: It does not run.
        """
        answer, arrays = self._compute("values", batch)
        return dict(zip(answer["names"], arrays, strict=True))

    def _compute(self, operation: str, batch: Array) -> tuple[dict[str, Any], list[Array]]:
        self._jobs(operation)  # the files' directory is gone with the process
        given, out = self._file("in.npz"), self._file("out.npz")
        try:
            np.savez(given, **{"0": batch})  # type: ignore[arg-type]  # its one other keyword is no digit
            answer = self._ask(operation, batch=str(given), out=str(out))
            with np.load(out, allow_pickle=False) as arrays:
                return answer, [arrays[str(number)] for number in range(len(arrays.files))]
        finally:
            given.unlink(missing_ok=True)
            out.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        self._files += 1
        return Path(self._scratch.name) / f"{self._files}-{name}"

    def _ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send a job and wait for its answer.

        Raises:
            VedetteError: The host says so, or gives no answer.
        """
        asked, jobs = self._operations[operation], self._jobs(operation)
        try:
            jobs.write(json.dumps({"do": operation, **arguments}).encode() + b"\n")
            jobs.flush()
            line = self._read_line(time.monotonic() + asked.seconds)
        except (BrokenPipeError, EOFError):
            raise self._died(asked) from None
        except TimeoutError:
            tail = self._tail()
            self.close()
            raise ExportError(
                f"{self._source} was not {asked.what} within {asked.seconds:g} s; the process was ended{tail}"
            ) from None
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._error(asked, answer["error"], answer["text"])
        return answer

    def _jobs(self, operation: str) -> IO[bytes]:
        """Return the child's stdin; raise ExportError if it has ended."""
        if self._process.stdin is None or self._process.stdin.closed:
            what = self._operations[operation].what
            raise ExportError(f"{self._source} cannot be {what}: the process that held it has ended")
        return self._process.stdin

    def _read_line(self, deadline: float) -> bytes:
        """Return the next line of stdout; raise EOFError or TimeoutError where there is none."""
        pipe = self._process.stdout
        if pipe is None:
            raise EOFError
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                read = os.read(pipe.fileno(), 1 << 16)
                if not read:
                    raise EOFError
                self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _died(self, asked: Operation) -> ExportError:
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        tail = self._tail()
        self.close()
        return ExportError(f"{self._source} cannot be {asked.what}: {self._python} ended {how}{tail}")

    def _error(self, asked: Operation, kind: str, text: str) -> VedetteError:
        if kind in ERRORS:
            return ERRORS[kind](text)
        if kind != ABSENT:
            return ExportError(f"{self._source} cannot be {asked.what}: {text}")
        needs = self._needs or extra_of(text)
        extra = f"pip install 'vedette[{needs}]', or name" if needs else "name"
        return UsageError(
            f"{self._source} cannot be {asked.what}: {self._python} has no module {text!r}; {extra} an interpreter "
            f"that has it with --importer-python (or {PYTHON_VARIABLE})"
        )

    def _tail(self) -> str:
        with self._stderr.open("rb") as log:
            log.seek(max(0, self._stderr.stat().st_size - 4 * TAIL))
            text = " ".join(log.read().decode(errors="replace").split())
        return f"; the last it said: {text[-TAIL:]}" if text else ""

    def close(self) -> None:
        """End the process and all that it started; may be called again."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        with suppress(ProcessLookupError):  # it has ended already, and so has all that it started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was written last found no reader
                    pipe.close()
        self._scratch.cleanup()
