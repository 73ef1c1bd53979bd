"""The processes of the demo: commands that end, and servers that do not.

Rules:
    * Everything runs through the installed console scripts, as a user would run it.
    * Every server is in a process group of its own and ended with all its children: politely first,
      then for good. `Processes` is a context manager, so that an error or Ctrl-C ends them too.
    * What a process printed is in ``<logs>/<name>.log``; an error shows its last line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from controller.errors import DemoError

__all__ = ["Processes", "wait_until"]

STOP_SECONDS = 15.0
COMMAND_SECONDS = 600.0

T = TypeVar("T")


def _script(name: str) -> str:
    """Return the console script *name* of this installation."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise DemoError(f"the command {name} is not installed beside {sys.executable}")
    return found


def wait_until(what: str, probe: Callable[[], T | None], timeout: float) -> T:
    """Return what *probe* gives as soon as it is something; ask twice a second.

    Raises:
        DemoError: Nothing came within *timeout* seconds; the text names *what* was awaited.
    """
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if (found := probe()) is not None:
            return found
        time.sleep(0.5)
    raise DemoError(f"{what}: not seen within {timeout:g} s")


class Processes:
    """Runs commands and servers; ends the servers at the end of the ``with`` block unless told to keep them."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self.keep = False
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or not self.keep:
            self.stop()

    @property
    def running(self) -> Mapping[str, int]:
        """The process ids of the servers that still run, by name."""
        return {name: server.pid for name, server in self._servers.items() if server.poll() is None}

    def serve(self, name: str, script: str, *arguments: str | Path) -> None:
        """Start *script* as the server *name*."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._servers[name] = subprocess.Popen(
                [_script(script), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the servers in order
            )

    def check_alive(self) -> None:
        """Raise unless every server still runs.

        Raises:
            DemoError: One ended by itself; the text holds the last line that it printed.
        """
        for name, server in self._servers.items():
            if server.poll() is not None:
                raise DemoError(f"{name} ended with code {server.returncode}: {self._last_line(name)}")

    def run(self, script: str, *arguments: str | Path, expect: Sequence[int] = (0,)) -> str:
        """Run *script* to its end and return what it printed to stdout.

        Raises:
            DemoError: It ended with another exit code than *expect*, or did not end in time.
        """
        command = [_script(script), *map(str, arguments)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if sys.stderr.isatty() else subprocess.PIPE,  # progress bars, for those who see them
                env=self._environment,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"{script} {' '.join(command[1:])} did not end within {COMMAND_SECONDS:g} s") from None
        with (self._logs / "commands.log").open("ab") as log:
            log.write(f"$ {script} {' '.join(command[1:])}\n".encode() + done.stdout + (done.stderr or b""))
        if done.returncode not in expect:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise DemoError(f"{script} {' '.join(command[1:])} ended with code {done.returncode}: {said[0]}")
        return done.stdout.decode()

    def run_json(self, script: str, *arguments: str | Path, expect: Sequence[int] = (0,)) -> Any:
        """Run *script* with ``--json`` and return what it printed; raises as `run` does."""
        return json.loads(self.run(script, *arguments, "--json", expect=expect))

    def stop(self) -> None:
        """End every server: last started, first ended."""
        for server in reversed(self._servers.values()):
            _signal_group(server, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for server in self._servers.values():
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=max(0.0, until - time.monotonic()))
            _signal_group(server, signal.SIGKILL)  # the group may outlive its leader
            server.wait()

    def _last_line(self, name: str) -> str:
        lines = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"


def _signal_group(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, number)
