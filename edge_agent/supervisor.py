"""Keeps the active model served: one runner, started again whenever it ends unasked.

Rules:
    * There is at most one runner that serves. A second one exists only between `prepare` and
      `switch` (or its own end), warm and without results.
    * A runner that ends unasked is counted and started again, later each time, up to a bound; one
      that then serves for a while starts the delays anew.
    * `serving` is what gives results now, not what was meant to.
    * Totals go on over restarts: what a dead runner had counted is not forgotten.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Settings
from edge_agent.errors import RunnerError
from edge_agent.process import RunnerProcess
from edge_agent.runner_protocol import RunnerSpec, Stats
from edge_agent.slots import Slot
from runtime.logs import get_logger
from runtime.protocol.messages import ModelState

__all__ = ["Supervisor", "Totals"]

_log = get_logger("vedette.agent.supervisor")
_STEADY = 60.0  # seconds of service after which the next restart is quick again
_ANSWER = 10.0  # seconds for a warm runner to begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts since the agent started, over all runners."""

    frames: int = 0
    errors: int = 0
    bad_frames: int = 0

    def plus(self, stats: Stats) -> Totals:
        """Return the totals with *stats* of one runner added."""
        return Totals(
            frames=self.frames + stats.frames,
            errors=self.errors + stats.errors,
            bad_frames=self.bad_frames + stats.bad_frames,
        )


class Supervisor:
    """The runners of this device.

    Args:
        settings: Source, rates and timeouts.
        results: The file that runners write to.
        changed: Called whenever `serving` may have become another.
        died: Called with the reason when a runner ended unasked.

    Attributes:
        restarts: How often a runner ended unasked, since the agent started.
        last_death: Why the last of them ended; empty if none did.
    """

    def __init__(
        self, settings: Settings, results: Path, *, changed: Callable[[], None], died: Callable[[str], None]
    ) -> None:
        self.restarts = 0
        self.last_death = ""
        self._settings = settings
        self._results = results
        self._changed = changed
        self._tell_death = died
        self._slot: Slot | None = None  # what is to be served
        self._runner: RunnerProcess | None = None  # what serves it
        self._ended = Totals()  # of runners that are gone
        self._position = 0
        self._turn = asyncio.Lock()  # whoever changes `_slot` and `_runner` holds it
        self._woken = asyncio.Event()
        self._serves = asyncio.Event()

    @property
    def serving(self) -> ModelState | None:
        """The model that gives results now."""
        runner = self._runner
        return runner.spec.model if runner and runner.serving else None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to serve."""
        return self._slot is None

    @property
    def stats(self) -> Stats:
        """The last report of the runner that serves."""
        return self._runner.stats if self._runner else Stats()

    @property
    def totals(self) -> Totals:
        """Counts over all runners so far."""
        return self._ended.plus(self.stats)

    @property
    def progress(self) -> tuple[int, int]:
        """Differs from an earlier value if the runner went on since."""
        return (self._runner.pid, self._runner.reports) if self._runner else (0, 0)

    async def run(self) -> None:
        """Keep the slot served until cancelled; every runner is gone then."""
        delay = self._settings.restart_delay
        try:
            while True:
                self._woken.clear()
                started = time.monotonic()
                await self._watch()
                if time.monotonic() - started > _STEADY:
                    delay = self._settings.restart_delay
                if await self._bury():
                    await self._pause(delay)
                    delay = min(2 * delay, self._settings.restart_delay_most)
        finally:
            await self._end()

    async def serve(self, slot: Slot | None) -> None:
        """Serve *slot* from now on (nothing, if None); returns before it does."""
        async with self._turn:
            if self._slot == slot:
                return
            self._slot = slot
            await self._retire()
        self._woken.set()

    async def until_serving(self, seconds: float) -> bool:
        """Return as soon as something serves, or after *seconds*; whether it does."""
        try:
            async with asyncio.timeout(seconds):
                await self._serves.wait()
        except TimeoutError:
            return False
        return True

    async def prepare(self, slot_path: Path, model: ModelState) -> RunnerProcess:
        """Return a second runner, warm, for *model* in the directory *slot_path*.

        Raises:
            RunnerError: It did not get warm.
        """
        return await RunnerProcess.start(
            self._spec(slot_path, model),
            start_timeout=self._settings.start_timeout,
            stall_timeout=self._settings.stall_timeout,
        )

    async def switch(self, slot: Slot, runner: RunnerProcess) -> Totals:
        """Have *runner* serve *slot* in place of the one that does: it goes on with the next frame.

        Returns:
            The totals up to the switch; what is above them is the new runner's.

        Raises:
            RunnerError: It did not begin to serve; nothing serves then until `serve` is called.
        """
        async with self._turn:
            await self._retire()
            before = self._ended
            self._slot, self._runner = slot, runner
            await runner.serve(self._position, _ANSWER)
            self._serves.set()
        self._woken.set()
        self._changed()
        return before

    async def _watch(self) -> None:
        """Return when the runner has ended, or something else is to be served."""
        async with self._turn:
            if self._slot is not None and self._runner is None:
                await self._start(self._slot)
            runner = self._runner
            if runner is None and self._slot is not None:
                return  # it did not start
        waits: list[asyncio.Task[object]] = [asyncio.create_task(self._woken.wait())]
        if runner is not None:
            waits.append(asyncio.create_task(runner.ended()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _start(self, slot: Slot) -> None:
        try:
            runner = await self.prepare(slot.path, slot.model)
            await runner.serve(self._position, _ANSWER)
        except RunnerError as error:
            self._died(str(error))
            return
        self._runner = runner
        self._serves.set()
        _log.info("serving", model=f"{slot.model.model}@{slot.model.version}", variant=slot.model.variant)
        self._changed()

    async def _bury(self) -> bool:
        """Forget a runner that ended unasked; returns whether something is to be served and nothing does."""
        async with self._turn:
            if self._runner is not None and not self._runner.alive:
                self._died(await self._runner.ended())
                self._forget(self._runner)
            return self._slot is not None and self._runner is None

    async def _pause(self, delay: float) -> None:
        try:
            async with asyncio.timeout(delay):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _retire(self) -> None:
        """End the runner that serves, and remember where it was."""
        if self._runner is not None:
            await self._runner.stop(self._settings.stop_timeout)
            self._forget(self._runner)

    def _forget(self, runner: RunnerProcess) -> None:
        self._ended = self.totals
        self._position = runner.position
        self._runner = None
        self._serves.clear()
        self._changed()

    def _died(self, why: str) -> None:
        self.restarts += 1
        self.last_death = why
        _log.warning("runner ended", reason=why, restarts=self.restarts)
        self._tell_death(why)
        self._changed()

    async def _end(self) -> None:
        if self._runner is not None:
            await self._runner.stop(self._settings.stop_timeout)

    def _spec(self, slot_path: Path, model: ModelState) -> RunnerSpec:
        return RunnerSpec(
            slot=slot_path,
            model=model,
            source=self._settings.source,
            fps=self._settings.fps,
            results=self._results,
            stats_interval=self._settings.stats_interval,
            parent=os.getpid(),
        )
