"""What the device tells the controller: `Reported`, events and telemetry.

Rules:
    * `Reported` is the latest truth: built when it is sent, never queued. Its `active` is the model
      whose runner gives results at that moment.
    * Events and telemetry go through the spool. Both are numbered within a boot, so that a doubled
      delivery is recognized; the boot id is new at every start of the agent.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from edge_agent.spool import Spool
from runtime import __version__
from runtime.hardware import this_machine
from runtime.logs import get_logger
from runtime.protocol.messages import (
    Assignment,
    Event,
    Failure,
    Hardware,
    ModelState,
    Phase,
    Reported,
    Sample,
    Telemetry,
)
from runtime.protocol.topics import Channel

__all__ = ["Reporter"]

_log = get_logger("vedette.agent")


@dataclass(slots=True)
class _Standing:
    """Where the update is."""

    phase: Phase = Phase.IDLE
    sequence: int = 0
    failure: Failure | None = None


class Reporter:
    """Builds what the device says of itself.

    Args:
        device: Its id.
        spool: Takes events and telemetry.
        clock: The time, timezone-aware.

    Attributes:
        boot_id: Of this start of the agent.
        changed: Set when there is something new to report.
        spooled: Set when there is something new in the spool.
        providers: Execution providers proven on this device.
    """

    def __init__(self, device: str, spool: Spool, clock: Callable[[], datetime]) -> None:
        self.boot_id = uuid.uuid4().hex
        self.changed = asyncio.Event()
        self.spooled = asyncio.Event()
        self.providers: tuple[str, ...] = ()
        self._device = device
        self._spool = spool
        self._clock = clock
        self._standing = _Standing()
        self._events = 0
        self._batches = 0

    @property
    def phase(self) -> Phase:
        """Where the update is."""
        return self._standing.phase

    def enter(self, phase: Phase, assignment: Assignment | None, failure: Failure | None = None) -> None:
        """The update of *assignment* is in *phase* now; an event says so, if that is new."""
        sequence = assignment.sequence if assignment else 0
        before, self._standing = self._standing, _Standing(phase, sequence, failure)
        if (before.phase, before.sequence) == (phase, sequence):
            return
        if assignment is not None:
            _log.info(
                "update",
                phase=phase,
                model=assignment.reference,
                sequence=sequence,
                **({"code": failure.code, "reason": failure.message} if failure else {}),
            )
            self.event(
                "phase",
                phase=phase,
                sequence=sequence,
                code=failure.code if failure else "",
                message=failure.message if failure else "",
            )
        self.changed.set()

    def resume(self, phase: Phase, sequence: int, failure: Failure | None) -> None:
        """After a restart: *phase* is where the last agent left it; that is no news."""
        self._standing = _Standing(phase, sequence, failure)
        self.changed.set()

    def event(
        self, kind: str, *, phase: Phase | None = None, sequence: int = 0, code: str = "", message: str = ""
    ) -> None:
        """Something happened."""
        self._events += 1
        event = Event(
            boot_id=self.boot_id,
            number=self._events,
            time=self._clock(),
            kind=kind,
            phase=phase,
            sequence=sequence,
            code=code,
            message=message,
        )
        self._spool.put(Channel.EVENTS, event.to_bytes())
        self.spooled.set()

    def telemetry(self, samples: Sequence[Sample]) -> None:
        """Measurements were made."""
        self._batches += 1
        batch = Telemetry(boot_id=self.boot_id, number=self._batches, samples=tuple(samples))
        self._spool.put(Channel.TELEMETRY, batch.to_bytes())
        self.spooled.set()

    def reported(self, active: ModelState | None, standby: ModelState | None) -> Reported:
        """Return the state to publish; *active* is what serves, *standby* what could be returned to."""
        machine = this_machine()
        return Reported(
            device=self._device,
            boot_id=self.boot_id,
            agent_version=__version__,
            time=self._clock(),
            hardware=Hardware(
                machine=machine.architecture,
                cpu_count=machine.cpu_count,
                memory_mb=machine.memory_mb,
                model=machine.model,
            ),
            providers=self.providers,
            phase=self._standing.phase,
            sequence=self._standing.sequence,
            active=active,
            standby=standby,
            failure=self._standing.failure,
        )
