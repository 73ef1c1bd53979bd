"""Between the rollout core's values and the database's rows.

Rules:
    * `load` after `save` gives an equal rollout.
    * Facts are read anew at every step; nothing about a device is remembered between two.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from controller.database.schema import DeviceRow, MemberRow, RolloutRow
from controller.errors import NotFoundError
from controller.fleet.devices import timezone_of
from controller.fleet.query import Query
from controller.rollouts.core import UNDECIDED
from controller.rollouts.model import DeviceFacts, Member, Outcome, Release, Rollout, State
from controller.rollouts.spec import PolicySpec
from runtime.protocol.messages import Reported

__all__ = ["IS_LIVE", "facts", "find", "load", "members_of", "save"]

IS_LIVE = or_(RolloutRow.state.in_((State.RUNNING, State.PAUSED)), RolloutRow.returning_since.is_not(None))
"""SQL for `Rollout.live`."""


def find(session: Session, rollout: str) -> RolloutRow:
    """Return the row of *rollout*.

    Raises:
        NotFoundError: There is none.
    """
    row = session.get(RolloutRow, rollout)
    if row is None:
        raise NotFoundError(f"no rollout {rollout!r}; `vedette rollout list` shows which there are")
    return row


def members_of(session: Session, rollout: str) -> list[MemberRow]:
    """Return the members of *rollout*, in the order in which they came in."""
    of_rollout = select(MemberRow).where(MemberRow.rollout_id == rollout)
    return list(session.scalars(of_rollout.order_by(MemberRow.wave, MemberRow.assigned_at, MemberRow.device_id)))


def load(session: Session, row: RolloutRow) -> Rollout:
    """Return the rollout that *row* and its members say."""
    return Rollout(
        id=row.id,
        release=Release(model=row.model, version=row.version, digest=row.digest),
        policy=PolicySpec.model_validate(row.spec).policy(),
        state=State(row.state),
        wave=row.wave,
        passed_at=row.passed_at,
        reason=row.reason,
        returning_since=row.returning_since,
        members={member.device_id: _member(member) for member in members_of(session, row.id)},
    )


def _member(row: MemberRow) -> Member:
    previous = None
    if row.previous_model is not None and row.previous_version is not None and row.previous_digest is not None:
        previous = Release(model=row.previous_model, version=row.previous_version, digest=row.previous_digest)
    return Member(
        wave=row.wave,
        assigned_at=row.assigned_at,
        sequence=row.sequence,
        previous=previous,
        outcome=Outcome(row.outcome),
        reason=row.reason,
        returned=row.returned,
    )


def save(session: Session, row: RolloutRow, before: Rollout, after: Rollout, now: datetime) -> None:
    """Write what is different in *after*."""
    if after == before:
        return
    row.state, row.wave, row.reason = after.state.value, after.wave, after.reason
    row.passed_at, row.returning_since, row.updated_at = after.passed_at, after.returning_since, now
    for device, member in after.members.items():
        if before.members.get(device) != member:
            session.merge(_member_row(row.id, device, member))


def _member_row(rollout: str, device: str, member: Member) -> MemberRow:
    return MemberRow(
        rollout_id=rollout,
        device_id=device,
        wave=member.wave,
        assigned_at=member.assigned_at,
        sequence=member.sequence,
        outcome=member.outcome.value,
        reason=member.reason,
        returned=member.returned,
        previous_model=member.previous.model if member.previous else None,
        previous_version=member.previous.version if member.previous else None,
        previous_digest=member.previous.digest if member.previous else None,
    )


def facts(session: Session, row: RolloutRow, members: Mapping[str, Member]) -> dict[str, DeviceFacts]:
    """Return what is known of every device that *row* targets or has as a member."""
    query = Query.parse(row.target)
    held = _held(session, row.id)
    found = {}
    for device in session.scalars(select(DeviceRow)):
        revoked = device.revoked_at is not None
        targeted = not revoked and query.matches(device.id, device.labels)
        if targeted or device.id in members:
            found[device.id] = _facts(device, targeted=targeted, revoked=revoked, held=device.id in held)
    return found


def _held(session: Session, rollout: str) -> set[str]:
    """Return the devices that another live rollout waits for."""
    undecided = [outcome.value for outcome in UNDECIDED]
    waiting = select(MemberRow.device_id).join(RolloutRow, RolloutRow.id == MemberRow.rollout_id)
    return set(session.scalars(waiting.where(RolloutRow.id != rollout, IS_LIVE, MemberRow.outcome.in_(undecided))))


def _facts(row: DeviceRow, *, targeted: bool, revoked: bool, held: bool) -> DeviceFacts:
    reported = Reported.model_validate(row.reported) if row.reported is not None else None
    active = reported.active if reported else None
    failure = reported.failure if reported else None
    return DeviceFacts(
        targeted=targeted,
        revoked=revoked,
        held=held,
        timezone=timezone_of(row.labels),
        sequence=row.sequence,
        reported_sequence=reported.sequence if reported else 0,
        phase=reported.phase if reported else None,
        active=Release(model=active.model, version=active.version, digest=active.manifest_sha256) if active else None,
        failure=f"{failure.code}: {failure.message}" if failure else "",
        failure_sequence=failure.sequence if failure else 0,
    )
