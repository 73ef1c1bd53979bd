"""From what comes on ``desired`` to an update under way: one at a time, the newest wins.

Rules:
    * A message that cannot be used is an event, never the end of anything.
    * The retained assignment comes again with every connect: what was seen is ignored in silence.
    * A newer assignment cancels the update under way, which ends as `superseded`; the slot that was
      active before goes on serving.
    * What became of an assignment is on the disk before it is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_agent.errors import StaleError
from edge_agent.ledger import Ledger
from edge_agent.report import Reporter
from edge_agent.update import Problem, Update
from edge_agent.updater import Parts, Updater
from runtime.errors import ProtocolError
from runtime.logs import get_logger
from runtime.protocol.messages import Assignment, Failure, Phase

__all__ = ["Assignments"]

_log = get_logger("vedette.agent")
_OUTCOMES = {
    "none": Phase.IDLE,
    "pending": Phase.IDLE,
    "committed": Phase.COMMITTED,
    "failed": Phase.FAILED,
}
_LOOK_AGAIN = 60.0  # seconds at most until a clock that may have been set is read again


class Assignments:
    """Carries out what the controller desires.

    Args:
        device: Our id.
        parts: What an update works with.
        ledger: Of the last run.
        save: Writes a ledger to the disk.
        reporter: Is told how it goes.
    """

    def __init__(
        self, device: str, parts: Parts, ledger: Ledger, save: Callable[[Ledger], None], reporter: Reporter
    ) -> None:
        self._device = device
        self._parts = parts
        self._ledger = ledger
        self._save = save
        self._reporter = reporter
        self._desired: bytes | None = None
        self._told = asyncio.Event()
        self._under_way: Assignment | None = None

    def desire(self, payload: bytes) -> None:
        """The controller desires what *payload* says; of several that nobody looked at yet the newest counts."""
        self._desired = payload
        self._told.set()

    async def run(self) -> None:
        """Carry out assignments until cancelled; one that the last run left pending comes first."""
        ledger = self._ledger
        self._reporter.resume(_OUTCOMES[ledger.outcome], ledger.sequence, ledger.failure)
        async with asyncio.TaskGroup() as group:
            update = group.create_task(self._carry_out(ledger.pending)) if ledger.pending else None
            while True:
                assignment = await self._next()
                if update is not None and not update.done():
                    await self._supersede(update, assignment)
                update = group.create_task(self._carry_out(assignment), name=f"update {assignment.sequence}")

    async def _next(self) -> Assignment:
        """Return the next assignment to act upon; the ledger has it then."""
        while True:
            await self._told.wait()
            self._told.clear()
            payload, self._desired = self._desired, None
            if payload and (assignment := self._accept(payload)):
                return assignment

    def _accept(self, payload: bytes) -> Assignment | None:
        """Return the assignment in *payload* if it is to be acted upon."""
        try:
            assignment = Assignment.parse(payload)
            if assignment == self._ledger.assignment:
                return None
            ledger = self._ledger.accept(assignment, self._device)
            self._save(ledger)
        except StaleError as error:
            self._refuse("stale", str(error))
        except ProtocolError as error:
            self._refuse("protocol", str(error))
        except OSError as error:
            self._refuse("internal", f"the assignment cannot be kept on the disk: {error}")
        else:
            self._ledger = ledger
            return assignment
        return None

    def _refuse(self, code: str, message: str) -> None:
        _log.warning("assignment refused", code=code, reason=message)
        self._reporter.event("error", code=code, message=message)

    async def _supersede(self, update: asyncio.Task[None], by: Assignment) -> None:
        old = self._under_way
        update.cancel()
        await asyncio.wait([update])
        if old is None or not update.cancelled():
            return  # it came to its end just now
        message = f"assignment {by.sequence} ({by.reference}) came before {old.reference} was committed"
        self._reporter.enter(Phase.FAILED, old, _failure(old, Problem("superseded", message)))
        await self._parts.supervisor.serve(self._parts.slots.active)

    async def _carry_out(self, assignment: Assignment) -> None:
        """Bring the device to *assignment*, and say and keep what became of it."""
        self._under_way = assignment
        await self._wait_for_window(assignment)

        told: set[str] = set()  # of candidates that were refused, and of the provider that was preferred

        def report(update: Update) -> None:
            reasons = dict.fromkeys(update.refused, "proof") | {update.fallback: "preferred"}
            for reason, code in reasons.items():
                if reason and reason not in told:
                    self._reporter.event("provider_fallback", sequence=assignment.sequence, code=code, message=reason)
            told.update(reasons)
            if update.problem is None:  # a failure is told once it is over: when the old model serves
                self._reporter.enter(update.phase, assignment)

        problem = await Updater(self._parts, assignment, report).run()
        failure = _failure(assignment, problem) if problem else None
        self._conclude(assignment, failure)
        self._reporter.enter(Phase.FAILED if failure else Phase.COMMITTED, assignment, failure)

    async def _wait_for_window(self, assignment: Assignment) -> None:
        while assignment.not_before is not None:
            left = (assignment.not_before - self._parts.clock()).total_seconds()
            if left <= 0:
                return
            self._reporter.enter(Phase.WAITING, assignment)
            await asyncio.sleep(min(left, _LOOK_AGAIN))

    def _conclude(self, assignment: Assignment, failure: Failure | None) -> None:
        if self._ledger.sequence != assignment.sequence:
            return  # the ledger is a newer assignment's already
        self._ledger = self._ledger.failed(failure) if failure else self._ledger.committed()
        try:
            self._save(self._ledger)
        except OSError as error:  # after a restart the update is gone through again, which changes nothing
            _log.warning("outcome not kept on the disk", reason=str(error))


def _failure(assignment: Assignment, problem: Problem) -> Failure:
    return Failure(
        code=problem.code,
        message=problem.message,
        sequence=assignment.sequence,
        manifest_sha256=assignment.manifest_sha256,
    )
