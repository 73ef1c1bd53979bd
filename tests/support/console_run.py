"""Run the commands of a Markdown file as its reader would: `console_run.py FILE DIRECTORY`.

Rules:
    * One shell session a file: what a command does to its directory and environment, the next one sees.
    * The first command that ends otherwise than expected, or takes too long, ends the run: exit code 1.
    * A background command must live until the end, or end with 0; then it gets SIGTERM and has to go.
    * Where the system lets us, the file has a network and a process space of its own: documented
      ports are free whatever runs beside, and no process outlives the run. Otherwise it runs directly.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from console_blocks import Command, DocumentError, read_commands

__all__ = ["main"]

COMMAND_LIMIT = 300.0  # seconds
READY_LIMIT = 60.0  # seconds until a server has printed what it should
QUIET = 1.0  # seconds without output after which a server that is not asked for a text counts as up
QUIET_LIMIT = 10.0  # seconds after which it counts as up, whatever it prints
STOP_LIMIT = 30.0  # seconds from SIGTERM to the end

_UNSHARE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
_ISOLATIONS = (_UNSHARE, [*_UNSHARE, "--map-root-user"])  # as root; as anybody
_INSIDE = "VEDETTE_CONSOLE_INSIDE"

_SESSION = """
if [ -e "$CONSOLE_STATE/environment" ]; then . "$CONSOLE_STATE/environment"; cd "$(cat "$CONSOLE_STATE/directory")"; fi
trap 'code=$?; pwd > "$CONSOLE_STATE/directory"; declare -px > "$CONSOLE_STATE/environment"; exit $code' EXIT
set -o pipefail
eval "$1"
"""


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class CommandError(Exception):
    """A command did not do what the document promises."""


@dataclass(frozen=True, slots=True)
class Server:
    """A command that was left running."""

    command: Command
    process: subprocess.Popen[bytes]
    log: Path


class Session:
    """One reader's terminal: runs commands, one after the other, and ends the servers among them."""

    def __init__(self, directory: Path, state: Path) -> None:
        self._directory, self._state = directory, state
        self._servers: list[Server] = []

    def run(self, command: Command) -> None:
        """Run *command*, or start it if it is a server, and print it and its output.

        Raises:
            CommandError: It ended otherwise than expected, or took too long.
        """
        _say("$ " + command.text.replace("\n", "\n> ") + "\n")
        log = self._state / f"{command.line}.log"
        with log.open("wb") as output:
            process = self._start(command, output)
        if command.background:
            server = Server(command, process, log)
            self._servers.append(server)
            _await_ready(server)
        else:
            self._finish(command, process, log)

    def _start(self, command: Command, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-c", _SESSION, "console", command.text],
            cwd=self._directory,
            env=os.environ | {"CONSOLE_STATE": str(self._state)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _finish(self, command: Command, process: subprocess.Popen[bytes], log: Path) -> None:
        started = time.monotonic()
        try:
            code = process.wait(COMMAND_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise CommandError(f"line {command.line}: not done after {COMMAND_LIMIT:.0f} s: {command.text}") from None
        finally:
            _say(f"{log.read_text(errors='replace')}[{time.monotonic() - started:.1f} s]\n")
        if code != command.expect:
            raise CommandError(f"line {command.line}: exit code {code}, expected {command.expect}: {command.text}")

    def close(self) -> list[str]:
        """End the servers, the last one first; return what was wrong with them."""
        return [problem for server in reversed(self._servers) if (problem := _stop(server))]


def _await_ready(server: Server) -> None:
    command, started = server.command, time.monotonic()
    printed, changed = "", started
    while True:
        code, now = server.process.poll(), time.monotonic()
        if (text := server.log.read_text(errors="replace")) != printed:
            printed, changed = text, now
        if command.until is not None and command.until in printed:
            return
        if code is not None:
            raise CommandError(f"line {command.line}: ended at once, exit code {code}: {command.text}\n{printed}")
        up = (printed and now - changed > QUIET) or now - started > QUIET_LIMIT
        if command.until is None and up:
            return
        if now - started > READY_LIMIT:
            raise CommandError(f"line {command.line}: {command.until!r} not printed: {command.text}\n{printed}")
        time.sleep(0.05)


def _stop(server: Server) -> str | None:
    code, problem = server.process.poll(), None
    if code is None:
        os.killpg(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
            problem = f"did not end within {STOP_LIMIT:.0f} s of SIGTERM"
    elif code:
        problem = f"ended by itself, exit code {code}"
    _say(f"[output of {server.command.text}]\n{server.log.read_text(errors='replace')}")
    return problem and f"line {server.command.line}: {problem}: {server.command.text}"


def _isolation() -> list[str]:
    """Return the command that gives another one a network and a process space of its own, if there is one here."""
    for prefix in _ISOLATIONS:
        try:
            subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            continue
        return prefix
    return []


def _raise_loopback() -> None:
    """Bring the loopback interface of a new network up; netdevice(7)."""
    set_flags, up, running = 0x8914, 0x1, 0x40
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up | running))


def _run_all(document: Path, directory: Path, state: Path) -> int:
    session, problems = Session(directory, state), []
    try:
        for command in read_commands(document, Path(__file__).parents[2]):
            session.run(command)
    except (CommandError, DocumentError) as error:
        problems.append(str(error))
    finally:
        problems += session.close()
    for problem in problems:
        _say(f"{document.name}: {problem}\n")
    return 1 if problems else 0


def main(arguments: list[str]) -> int:
    """Run the commands of the Markdown file *arguments*[0] in the directory *arguments*[1]; return the exit code."""
    document, directory = (Path(argument).absolute() for argument in arguments)
    state = directory / ".console"
    state.mkdir(parents=True, exist_ok=True)
    inside = os.environ.pop(_INSIDE, None)
    if inside is None:
        prefix = _isolation()
        command = [*prefix, sys.executable, str(Path(__file__)), str(document), str(directory)]
        os.execvpe(command[0], command, os.environ | {_INSIDE: "own" if prefix else "shared"})
    if inside == "own":
        _raise_loopback()
    return _run_all(document, directory, state)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
