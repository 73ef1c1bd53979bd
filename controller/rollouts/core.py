"""The rules of a rollout, pure: no clock, no broker, no database (DESIGN.md §6).

Rules:
    * A wave's devices are the first of the cohort: a hash of rollout and device, random and stable.
    * No device is assigned beyond the wave under way, while its wave fails, outside its window, above
      the rate limit, or while another live rollout waits for it.
    * A device succeeds only when it reports the new digest as the one serving, committed. A device
      that says it failed, stays silent too long, or leaves the new model again, has failed, and stays so.
    * A wave fails as soon as more of its devices failed than it may have, or when enough are decided
      and the rate among them is too high. Passed waves are watched on.
    * A wave passes when it is full and good; then it soaks, then the next one opens. Who joins
      late takes the free places of the wave under way, and its gate waits for it.
    * `advance` goes as far as it can at one moment: again with the same facts it does nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.rollouts.model import (
    Action,
    Assign,
    DeviceFacts,
    Member,
    OnFailure,
    Outcome,
    Release,
    Rollout,
    State,
    Step,
    Withdraw,
)
from runtime.protocol.messages import Phase

__all__ = ["UNDECIDED", "Facts", "advance", "cohort", "return_devices", "send_back"]

Facts = Mapping[str, DeviceFacts]
UNDECIDED = {Outcome.PENDING, Outcome.QUEUED}
MINUTE = timedelta(minutes=1)
ROUNDING = 1e-9  # 0.29 * 100 is a little less than 29


def cohort(rollout_id: str, devices: Iterable[str]) -> list[str]:
    """Return *devices* in the order in which this rollout takes them."""
    return sorted(devices, key=lambda device: (hashlib.sha256(f"{rollout_id}/{device}".encode()).digest(), device))


def advance(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    """Return the next rollout and what to do for it; the same rollout when nothing changes.

    Args:
        rollout: As the last step left it.
        facts: Of every device that is targeted or a member.
        now: Timezone-aware.
    """
    actions: list[Action] = []
    while True:
        step = _once(rollout, facts, now)
        actions += step.actions
        if step.rollout == rollout:
            return Step(rollout, tuple(actions))
        rollout = step.rollout


def _once(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    """Return the first step that has something to say."""
    if rollout.returning_since is not None:
        return Step(_settle(rollout, facts, now))
    rules: tuple[Callable[[Rollout, Facts, datetime], Step], ...]
    match rollout.state:
        case State.RUNNING:
            rules = (_observe, _stop_if_broken, _assign, _pass_gate)
        case State.PAUSED:
            rules = (_observe,)
        case _:
            rules = ()
    for rule in rules:
        step = rule(rollout, facts, now)
        if step.rollout != rollout:
            return step
    return Step(rollout)


# --- What devices say ---------------------------------------------------------------------------


def _observe(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    members = {device: _judge(rollout, member, facts.get(device), now) for device, member in rollout.members.items()}
    return Step(replace(rollout, members=members))


def _judge(rollout: Rollout, member: Member, fact: DeviceFacts | None, now: datetime) -> Member:
    """Return *member* with the outcome that the facts speak for."""
    if member.outcome is Outcome.LEFT:
        return member
    if fact is None or fact.revoked:
        return replace(member, outcome=Outcome.LEFT, reason="revoked")
    if fact.sequence > member.sequence:
        return replace(member, outcome=Outcome.LEFT, reason="assigned something else")
    verdict = _VERDICTS.get(member.outcome)
    outcome, reason = verdict(rollout, member, fact, now) if verdict else (member.outcome, member.reason)
    return replace(member, outcome=outcome, reason=reason)


def _pending(rollout: Rollout, member: Member, fact: DeviceFacts, now: datetime) -> tuple[Outcome, str]:
    answered = fact.reported_sequence == member.sequence
    if _says_failed(member, fact):
        return Outcome.FAILED, fact.failure or "failed without a reason"
    if answered and _serves(fact, rollout.release) and fact.phase is Phase.COMMITTED:
        return Outcome.SUCCEEDED, ""
    if now - member.assigned_at >= rollout.policy.device_timeout:
        return Outcome.FAILED, f"timed out: {f'last seen {fact.phase}' if answered else 'did not answer'}"
    return Outcome.PENDING, ""


def _succeeded(rollout: Rollout, member: Member, fact: DeviceFacts, _now: datetime) -> tuple[Outcome, str]:
    if _says_failed(member, fact):
        return Outcome.FAILED, fact.failure or "failed without a reason"
    if fact.reported_sequence == member.sequence and fact.active and not _serves(fact, rollout.release):
        return Outcome.FAILED, f"left the new model, serves {fact.active}"
    return Outcome.SUCCEEDED, ""


_VERDICTS = {Outcome.PENDING: _pending, Outcome.SUCCEEDED: _succeeded}  # the other outcomes stay


def _says_failed(member: Member, fact: DeviceFacts) -> bool:
    about_this = fact.reported_sequence == fact.failure_sequence == member.sequence
    return about_this and fact.phase is Phase.FAILED


def _serves(fact: DeviceFacts, release: Release) -> bool:
    return fact.active is not None and fact.active.digest == release.digest


# --- How a wave stands --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """Numbers of devices of one wave."""

    planned: int
    members: int
    succeeded: int
    failed: int

    @property
    def decided(self) -> int:
        return self.succeeded + self.failed


def _present(rollout: Rollout) -> dict[str, Member]:
    return {device: member for device, member in rollout.members.items() if member.outcome is not Outcome.LEFT}


def _size(rollout: Rollout, facts: Facts) -> int:
    """Return how many devices may have the release in the wave under way."""
    gone = rollout.members.keys() - _present(rollout).keys()
    total = len(({device for device, fact in facts.items() if fact.targeted} | rollout.members.keys()) - gone)
    return max(wave.size(total) for wave in rollout.policy.waves[: rollout.wave + 1])


def _tally(rollout: Rollout, wave: int, size: int) -> _Tally:
    present = _present(rollout).values()
    outcomes = [member.outcome for member in present if member.wave == wave]
    earlier = sum(member.wave < wave for member in present)
    planned = size - earlier if wave == rollout.wave else 0
    return _Tally(
        planned=max(planned, len(outcomes)),
        members=len(outcomes),
        succeeded=outcomes.count(Outcome.SUCCEEDED),
        failed=outcomes.count(Outcome.FAILED),
    )


def _stop_if_broken(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    size, policy = _size(rollout, facts), rollout.policy
    for wave in range(rollout.wave + 1):
        tally = _tally(rollout, wave, size)
        too_many = tally.failed > policy.max_failure_rate * tally.planned + ROUNDING
        too_often = tally.failed > policy.max_failure_rate * tally.decided + ROUNDING
        if too_many or (too_often and tally.decided >= policy.min_samples):
            reason = (
                f"wave {wave + 1}: {tally.failed} of {tally.members} devices failed ({_first_failure(rollout, wave)})"
            )
            return _fail(replace(rollout, reason=reason), facts, now)
    return Step(rollout)


def _first_failure(rollout: Rollout, wave: int) -> str:
    failed = {d: m for d, m in rollout.members.items() if m.wave == wave and m.outcome is Outcome.FAILED}
    device = cohort(rollout.id, failed)[0]
    return f"{device}: {failed[device].reason}"


def _fail(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    if rollout.policy.on_failure is OnFailure.PAUSE:
        return Step(replace(rollout, state=State.PAUSED, passed_at=None))
    return send_back(replace(rollout, state=State.FAILED), facts, now)


# --- Who gets it next ---------------------------------------------------------------------------


def _assign(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    waiting = {device for device, member in rollout.members.items() if member.outcome is Outcome.QUEUED}
    free = max(0, _size(rollout, facts) - len(_present(rollout)))
    joining = {device for device, fact in facts.items() if fact.targeted and not fact.held} - rollout.members.keys()
    again = [device for device in cohort(rollout.id, waiting) if _may_start(rollout, facts.get(device), now)]
    new = [device for device in cohort(rollout.id, joining) if _may_start(rollout, facts[device], now)][:free]
    chosen = [*again, *new][: _budget(rollout, now)]
    members, actions = dict(rollout.members), []
    for device in chosen:
        fact, known = facts[device], members.get(device)
        members[device] = Member(
            wave=known.wave if known else rollout.wave,
            assigned_at=now,
            sequence=fact.sequence + 1,
            previous=known.previous if known else fact.active,
        )
        actions.append(
            Assign(
                device=device,
                release=rollout.release,
                sequence=fact.sequence + 1,
                deadline=_closes(rollout, fact, now),
            )
        )
    return Step(replace(rollout, members=members), tuple(actions))


def _may_start(rollout: Rollout, fact: DeviceFacts | None, now: datetime) -> bool:
    if fact is None or fact.revoked:
        return False
    return rollout.policy.window is None or _closes(rollout, fact, now) is not None


def _closes(rollout: Rollout, fact: DeviceFacts, now: datetime) -> datetime | None:
    window = rollout.policy.window
    return window.closes(now.astimezone(fact.timezone)) if window is not None else None


def _budget(rollout: Rollout, now: datetime) -> int | None:
    """Return how many may be assigned now; ``None``: any number."""
    if rollout.policy.per_minute is None:
        return None
    recent = sum(member.assigned_at > now - MINUTE for member in rollout.members.values())
    return max(0, rollout.policy.per_minute - recent)


# --- The gate -----------------------------------------------------------------------------------


def _pass_gate(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    if not _wave_is_good(rollout, facts):
        return Step(replace(rollout, passed_at=None))
    is_last = rollout.wave == len(rollout.policy.waves) - 1
    adds_devices = any(member.wave == rollout.wave for member in rollout.members.values())
    soak = rollout.policy.soak if adds_devices else timedelta()
    passed_at = rollout.passed_at or now
    if now - passed_at < soak:
        return Step(replace(rollout, passed_at=passed_at))
    if is_last:
        return Step(replace(rollout, state=State.SUCCEEDED, passed_at=passed_at))
    return Step(replace(rollout, wave=rollout.wave + 1, passed_at=None))


def _wave_is_good(rollout: Rollout, facts: Facts) -> bool:
    """Whether the wave under way is full, and decided well enough."""
    size, present = _size(rollout, facts), _present(rollout)
    if not present or len(present) < size:
        return False
    if rollout.wave == len(rollout.policy.waves) - 1:
        return not any(member.outcome in UNDECIDED for member in present.values())
    tally = _tally(rollout, rollout.wave, size)
    enough = tally.succeeded >= rollout.policy.success_rate * tally.members - ROUNDING
    return enough or tally.decided == tally.members


# --- The way back -------------------------------------------------------------------------------


def send_back(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    """Return *rollout* with every member sent back to what it served before."""
    return return_devices(replace(rollout, returning_since=now, passed_at=None), facts, _present(rollout))


def return_devices(rollout: Rollout, facts: Facts, devices: Iterable[str]) -> Step:
    """Return *rollout* with *devices* sent back, as far as they are still its own."""
    members, actions = dict(rollout.members), list[Action]()
    for device in cohort(rollout.id, devices):
        member, fact = members[device], facts.get(device)
        if fact is None or fact.revoked or fact.sequence > member.sequence or member.returned is not None:
            continue
        if member.previous is None:
            actions.append(Withdraw(device=device))
            members[device] = replace(member, returned=0)
        else:
            sequence = max(fact.sequence, member.sequence) + 1
            actions.append(Assign(device=device, release=member.previous, sequence=sequence))
            members[device] = replace(member, returned=sequence)
    return Step(replace(rollout, members=members), tuple(actions))


def _settle(rollout: Rollout, facts: Facts, now: datetime) -> Rollout:
    """Return *rollout* when its devices are back, or when they had time enough."""
    away = [d for d, m in rollout.members.items() if m.returned and not _is_back(m, m.previous, facts.get(d))]
    if not away:
        kept = cohort(rollout.id, (d for d, m in rollout.members.items() if m.returned == 0))
        note = f"; {len(kept)} devices had no earlier model to return to ({', '.join(kept[:5])})" if kept else ""
        return replace(rollout, state=State.ROLLED_BACK, returning_since=None, reason=rollout.reason + note)
    if rollout.returning_since is not None and now - rollout.returning_since >= rollout.policy.device_timeout:
        missing = ", ".join(cohort(rollout.id, away)[:5])
        reason = f"{rollout.reason}; {len(away)} devices did not confirm their return ({missing})".lstrip("; ")
        return replace(rollout, returning_since=None, reason=reason)
    return rollout


def _is_back(member: Member, previous: Release | None, fact: DeviceFacts | None) -> bool:
    if fact is None or fact.revoked or previous is None or fact.sequence > (member.returned or 0):
        return True  # it is no longer ours to bring back
    return (
        _serves(fact, previous)
        and fact.reported_sequence == member.returned
        and fact.phase in {Phase.COMMITTED, Phase.IDLE}
    )
