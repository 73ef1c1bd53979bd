"""One runner process, seen from the agent: started, warmed, told to serve, stopped.

Rules:
    * Whatever goes wrong ends with the process gone and reaped: nobody has to look after it.
    * A process that says nothing for `stall_timeout` is hung and is killed.
    * What it wrote to stderr last explains a death without last words.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from contextlib import suppress

from pydantic import ValidationError

from edge_agent.errors import RunnerError
from edge_agent.runner_protocol import REPORTS, Failed, Ready, Report, RunnerSpec, Serve, Serving, Stats, Stop, Stopped
from runtime.logs import get_logger

__all__ = ["RunnerProcess"]

_log = get_logger("vedette.agent.runner")
_LINE_LIMIT = 65_536  # bytes
_PROGRAM = (sys.executable, "-P", "-m", "edge_agent.runner")  # -P: no folder of the cwd shadows our packages


class RunnerProcess:
    """A runner process; made by `start`, which returns once it is warm.

    Attributes:
        spec: What it runs.
        stats: Its last report.
        reports: How many of them came in which it was seen to go on: a frame more, or nothing to wait for.
        serving: Whether it is the one that gives results.
    """

    def __init__(self, spec: RunnerSpec, process: asyncio.subprocess.Process, stall_timeout: float) -> None:
        self.spec = spec
        self.stats = Stats()
        self.reports = 0
        self.serving = False
        self._process = process
        self._stall_timeout = stall_timeout
        self._ready = asyncio.Event()
        self._started_serving = asyncio.Event()
        self._began = 0  # number of the first frame that it was to see
        self._position: int | None = None  # its own word for where it stopped
        self._last_words = ""
        self._stderr: deque[str] = deque(maxlen=5)
        self._ended = asyncio.create_task(self._follow(), name=f"runner {process.pid}")

    @classmethod
    async def start(cls, spec: RunnerSpec, *, start_timeout: float, stall_timeout: float) -> RunnerProcess:
        """Start a runner and wait until it is warm.

        Raises:
            RunnerError: It ended, or was not warm within *start_timeout* seconds.
        """
        process = await asyncio.create_subprocess_exec(
            *_PROGRAM,
            spec.model_dump_json(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
        )
        runner = cls(spec, process, stall_timeout)
        try:
            await runner._wait_for(runner._ready, start_timeout, "warm")
        except BaseException:
            await runner.kill()
            raise
        return runner

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.done()

    async def serve(self, position: int, seconds: float) -> None:
        """Have it give results, from frame *position* on.

        Raises:
            RunnerError: It ended, or did not answer within *seconds*; it is gone then.
        """
        try:
            await self._send(Serve(position=position))
            await self._wait_for(self._started_serving, seconds, "serving")
        except BaseException:
            await self.kill()
            raise
        self._began = position
        self.serving = True

    @property
    def position(self) -> int:
        """Number of the next frame; after a crash, as far as its last report knew."""
        return self._began + _looked_at(self.stats) if self._position is None else self._position

    async def stop(self, seconds: float) -> None:
        """Have it finish the frame at hand and end; killed after *seconds*."""
        self.serving = False
        with suppress(RunnerError):
            await self._send(Stop())
        await asyncio.wait([self._ended], timeout=seconds)
        await self.kill()

    async def kill(self) -> None:
        """End it now."""
        self.serving = False
        with suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.shield(self._ended)

    async def ended(self) -> str:
        """Return once it has ended, with why it did so, in one line."""
        return await asyncio.shield(self._ended)

    async def _send(self, command: Serve | Stop) -> None:
        stdin = self._process.stdin
        if stdin is None or self._ended.done():
            raise RunnerError(f"runner of {self.spec.model.model}@{self.spec.model.version} has ended")
        stdin.write(command.line())
        with suppress(ConnectionError):  # it died just now; whoever waits for its answer learns that
            await stdin.drain()

    async def _wait_for(self, event: asyncio.Event, seconds: float, what: str) -> None:
        name = f"runner of {self.spec.model.model}@{self.spec.model.version}"
        waiter = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([waiter, self._ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if event.is_set():
            return
        if self._ended.done():
            raise RunnerError(f"{name} ended before it was {what}: {self._ended.result()}")
        raise RunnerError(f"{name} was not {what} within {seconds:g} s")

    async def _follow(self) -> str:
        """Read until the process ends; returns why it did."""
        stderr = asyncio.create_task(self._follow_stderr())
        stalled = False
        try:
            await self._follow_stdout()
        except TimeoutError:
            stalled = True
        with suppress(ProcessLookupError):
            self._process.kill()  # stdout is closed or not understood: nothing good can come any more
        code = await self._process.wait()
        self.serving = False
        await stderr
        if stalled:
            return f"it said nothing for {self._stall_timeout:g} s and was killed"
        return self._last_words or f"exit code {code}{': ' + self._stderr[-1] if self._stderr else ''}"

    async def _follow_stdout(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - it was asked for
        while True:
            async with asyncio.timeout(self._stall_timeout if self._ready.is_set() else None):
                try:
                    line = await stdout.readline()
                except ValueError:
                    return  # a line beyond the limit
            if not line:
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._process.wait()  # it closed stdout because it is ending: let it
                return
            try:
                self._take(REPORTS.validate_json(line))
            except ValidationError:
                _log.warning("runner said what is not understood", line=line[:200].decode(errors="replace"))
                return

    def _take(self, report: Report) -> None:
        match report:
            case Ready():
                self._ready.set()
            case Serving():
                self.stats = self.stats.model_copy(update={"waiting": False})  # unknown until the next report
                self._started_serving.set()
            case Stats():
                went_on = report.frames + report.bad_frames > self.stats.frames + self.stats.bad_frames
                self.reports += report.waiting or went_on
                self.stats = report
            case Stopped():
                self._position = report.position
            case Failed():
                self._last_words = report.message

    async def _follow_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101 - it was asked for
        with suppress(ValueError):  # a line beyond the limit
            async for line in stderr:
                text = line.decode(errors="replace").rstrip()
                self._stderr.append(text)
                _log.debug("runner", pid=self.pid, text=text)


def _looked_at(stats: Stats) -> int:
    """Return the number of frames that the runner is done with."""
    return stats.frames + stats.errors + stats.bad_frames
