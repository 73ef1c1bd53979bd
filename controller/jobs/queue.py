"""The job queue over the database: the rules of `controller.jobs.core`, one transaction a word.

Rules:
    * A transaction that decides about the queue locks every live job first, in the order of their ids: two
      controllers on one database hand a job out once.
    * One live job an output: to ask for the same once more is answered with the job that is there, to ask
      for another one is refused.
    * Every change is in the audit log; a holder's heartbeat is none. History is never deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from controller.database.database import Database
from controller.database.schema import JobRow
from controller.errors import FleetError, NotFoundError
from controller.fleet import audit
from controller.jobs import core
from controller.jobs.core import Bounds, Held, Job
from runtime.errors import VedetteError
from runtime.logs import get_logger
from runtime.protocol.jobs import Beat, Ending, JobRequest, JobState
from runtime.store import ModelStore, parse_reference

__all__ = ["JobQueue"]

log = get_logger("vedette.jobs")

TICK = 2.0  # seconds between two looks at leases that ran out
IS_LIVE = JobRow.state.in_((JobState.QUEUED, JobState.RUNNING))
SYSTEM = "controller"  # who lets a lease run out


def _now() -> datetime:
    return datetime.now(UTC)


def _load(row: JobRow) -> Job:
    held = None
    if row.lease_id is not None and row.lease_until is not None and row.holder is not None:
        held = Held(id=row.lease_id, holder=row.holder, until=row.lease_until)
    return Job(
        id=row.id,
        output=row.output,
        priority=row.priority,
        created_at=row.created_at,
        state=JobState(row.state),
        held=held,
        lost=row.lost,
        cancelling=row.cancelling,
        reason=row.reason,
    )


def _save(row: JobRow, job: Job, now: datetime) -> None:
    row.state, row.lost, row.cancelling, row.reason = job.state.value, job.lost, job.cancelling, job.reason
    row.lease_id = job.held.id if job.held else None
    row.lease_until = job.held.until if job.held else None
    if job.held is not None:
        row.holder = job.held.holder
    if job.state.ended and row.ended_at is None:
        row.ended_at = now


def _find(session: Session, job: str, *, lock: bool = False) -> JobRow:
    row = session.get(JobRow, job, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"no job {job!r}; `vedette batch list` shows which there are")
    return row


@dataclass(frozen=True, slots=True)
class JobQueue:
    """The batch jobs of one controller; its methods are synchronous, but for `run`.

    Attributes:
        database: Where they are.
        store: Where the models are.
        bounds: What the queue allows.
        clock: Timezone-aware.
    """

    database: Database
    store: ModelStore
    bounds: Bounds = field(default_factory=Bounds)
    clock: Callable[[], datetime] = _now

    async def run(self) -> None:
        """Let leases run out, for ever."""
        while True:
            try:
                await asyncio.to_thread(self.sweep)
            except (VedetteError, SQLAlchemyError, OSError) as error:
                log.warning("leases cannot be looked at", reason=str(error))
            await asyncio.sleep(TICK)

    def sweep(self) -> None:
        """Let the leases run out whose time has come."""
        now = self.clock()
        with self.database.read() as session:
            over = session.scalar(select(JobRow.id).where(IS_LIVE, JobRow.lease_until <= now).limit(1))
        if over is not None:
            with self.database.write() as session:
                self._lapsed(session, now)

    def submit(self, request: JobRequest, actor: str) -> JobRow:
        """Queue a job, and return it; the one that is there if the same is live already.

        Raises:
            UsageError: A model's reference is not usable.
            ModelNotFoundError: There is no such model.
            FleetError: Another live job writes the output.
        """
        now = self.clock()
        models = dict(map(self._pinned, request.models))
        made = JobRow(
            id=f"j{secrets.token_hex(4)}",
            created_at=now,
            created_by=actor,
            models=models,
            input=request.input,
            output=request.output,
            options=dict(request.options),
            priority=request.priority,
            state=JobState.QUEUED.value,
            lost=0,
            cancelling=False,
            reason="",
        )
        with self.database.write() as session:
            for row in self._lapsed(session, now):
                if row.output == request.output and not JobState(row.state).ended:
                    return _same(row, made)
            session.add(made)
            audit.record(
                session, now, actor, "job.create", made.id, models=list(models), output=made.output,
                priority=made.priority,
            )  # fmt: skip
        return made

    def _pinned(self, reference: str) -> tuple[str, str]:
        """Return (``NAME@VERSION``, digest of its manifest)."""
        name, version = parse_reference(reference)
        version = self.store.latest(name) if version is None else version
        return f"{name}@{version}", hashlib.sha256(self.store.manifest_bytes(name, version)).hexdigest()

    def listing(self, most: int, *, live: bool) -> Sequence[JobRow]:
        """Return the *most* latest jobs, the newest first; those alone that have not ended if *live*."""
        query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id).limit(most)
        with self.database.read() as session:
            return session.scalars(query.where(IS_LIVE) if live else query).all()

    def find(self, job: str) -> JobRow:
        """Return a job.

        Raises:
            NotFoundError: There is none.
        """
        with self.database.read() as session:
            return _find(session, job)

    def cancel(self, job: str, actor: str) -> JobRow:
        """Cancel a job; a running one ends when its holder says so.

        Raises:
            NotFoundError: There is none.
            FleetError: It ended already.
        """
        now = self.clock()
        with self.database.write() as session:
            row = _find(session, job, lock=True)
            _save(row, core.cancel(core.lapse(_load(row), self.bounds, now)), now)
            audit.record(session, now, actor, "job.cancel", job)
        return row

    def lease(self, holder: str, seconds: float, actor: str) -> tuple[str, JobRow] | None:
        """Hand the next job to *holder* for some *seconds*; return its lease's id and it, or ``None``: none may run."""
        now = self.clock()
        with self.database.write() as session:
            rows = {row.id: row for row in self._lapsed(session, now)}
            job = core.next_job(map(_load, rows.values()), self.bounds)
            if job is None:
                return None
            row = rows[job.id]
            held = Held(id=secrets.token_hex(16), holder=holder, until=now + timedelta(seconds=seconds))
            _save(row, core.take(job, held), now)
            row.started_at = row.started_at or now
            audit.record(session, now, actor, "job.lease", job.id, holder=holder)
        return held.id, row

    def beat(self, job: str, beat: Beat) -> JobRow:
        """Renew a lease, and keep what its holder says of the job.

        Raises:
            NotFoundError: There is no such job.
            LeaseLostError: It is not held under that lease.
        """
        now = self.clock()
        with self.database.write() as session:
            row = _find(session, job, lock=True)
            _save(row, core.renew(_load(row), beat.lease, now, beat.seconds), now)
            row.place, row.run = beat.place or row.place, beat.run or row.run
            row.progress = beat.progress.model_dump() if beat.progress else row.progress
        return row

    def release(self, job: str, lease: str, actor: str) -> JobRow:
        """Put a job back into the queue; raises as `beat`."""
        now = self.clock()
        with self.database.write() as session:
            row = _find(session, job, lock=True)
            _save(row, core.give_back(_load(row), lease), now)
            audit.record(session, now, actor, "job.release", job)
        return row

    def finish(self, job: str, ending: Ending, actor: str) -> JobRow:
        """Note how a job ended; raises as `beat`."""
        now = self.clock()
        with self.database.write() as session:
            row = _find(session, job, lock=True)
            _save(row, core.finish(_load(row), ending.lease, ending.state, ending.reason), now)
            row.summary = ending.summary
            row.progress = ending.progress.model_dump() if ending.progress else row.progress
            audit.record(session, now, actor, "job.finish", job, state=ending.state.value)
        return row

    def _lapsed(self, session: Session, now: datetime) -> list[JobRow]:
        """Lock the live jobs, let their leases run out, and return them, those too that ended by it."""
        live = select(JobRow).where(IS_LIVE).order_by(JobRow.id).with_for_update()
        rows = list(session.scalars(live.execution_options(populate_existing=True)))
        for row in rows:
            before = _load(row)
            after = core.lapse(before, self.bounds, now)
            if after != before:
                _save(row, after, now)
                audit.record(session, now, SYSTEM, "job.lapse", row.id, holder=row.holder, state=after.state.value)
        return rows


def _same(live: JobRow, asked: JobRow) -> JobRow:
    """Return the job *live* if *asked* is the same.

    Raises:
        FleetError: It is another one.
    """
    parts = ("models", "input", "options")
    differing = [part for part in parts if getattr(live, part) != getattr(asked, part)]
    if differing:
        raise FleetError(
            f"job {live.id} is {live.state} and writes {live.output}; it differs in: {', '.join(differing)}. "
            "Cancel it, or give --output another directory"
        )
    return live
