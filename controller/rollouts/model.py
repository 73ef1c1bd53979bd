"""What a rollout is: plain values, no behaviour but what follows from them.

State is derived from facts and never counted: how a wave stands is what its members' outcomes say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from controller.rollouts.schedule import Wave, Window
from runtime.protocol.messages import Phase

__all__ = [
    "Action",
    "Assign",
    "DeviceFacts",
    "Member",
    "OnFailure",
    "Outcome",
    "Policy",
    "Release",
    "Rollout",
    "State",
    "Step",
    "Withdraw",
]


class State(StrEnum):
    """Where a rollout is: draft -> running <-> paused -> succeeded | failed | aborted -> rolled_back."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


class Outcome(StrEnum):
    """Where one member of a rollout is."""

    QUEUED = "queued"  # failed once; gets the model again
    PENDING = "pending"  # assigned, not decided
    SUCCEEDED = "succeeded"  # the new model serves, committed
    FAILED = "failed"  # said so, timed out, or left the new model again
    LEFT = "left"  # no longer ours to judge: revoked, or assigned something else


class OnFailure(StrEnum):
    """What a failed wave leads to."""

    PAUSE = "pause"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One published version, by the digest of its manifest."""

    model: str
    version: int
    digest: str  # SHA-256 of the manifest, lowercase hex

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a rollout goes.

    Attributes:
        waves: Cumulative; the last is where the rollout ends.
        soak: How long a full wave is watched before the next one starts.
        max_failure_rate: Share of a wave's devices that may fail, 0 to 1.
        success_rate: Share of a wave's devices that must have succeeded before the gate opens, although
            others are undecided; 1: all are waited for. The last wave waits for all.
        min_samples: A wave is stopped early by its rate so far only when so many are decided.
        device_timeout: A device that is undecided so long after its assignment has failed.
        per_minute: At most so many assignments a minute; ``None``: no limit.
        window: When devices may be assigned, in their own time; ``None``: always.
        on_failure: What a failed wave leads to.
        config: Handed to the device with the assignment.
    """

    waves: tuple[Wave, ...]
    soak: timedelta = timedelta()
    max_failure_rate: float = 0.05
    success_rate: float = 1.0
    min_samples: int = 10
    device_timeout: timedelta = timedelta(hours=1)
    per_minute: int | None = None
    window: Window | None = None
    on_failure: OnFailure = OnFailure.PAUSE
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device that was assigned the release.

    Attributes:
        wave: Index of the wave it came in with.
        assigned_at: When it was assigned (again).
        sequence: Of that assignment.
        previous: What it served before; ``None``: nothing.
        outcome: Derived from what it reports.
        reason: Why it failed or left.
        returned: Sequence of the assignment that leads it back; 0: there is nothing to go back to;
            ``None``: it was not sent back.
    """

    wave: int
    assigned_at: datetime
    sequence: int
    previous: Release | None = None
    outcome: Outcome = Outcome.PENDING
    reason: str = ""
    returned: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout, between two steps.

    Attributes:
        id: Part of the cohort's hash, so that every rollout has another order of devices.
        release: What is rolled out.
        policy: How.
        state: Where it is.
        wave: Index of the wave under way.
        passed_at: When that wave was full and good; its soak runs from there.
        reason: Why it paused, failed or was aborted.
        returning_since: When devices were sent back; ``None``: they were not, or all is settled.
        members: The devices assigned so far, by id.
    """

    id: str
    release: Release
    policy: Policy
    state: State = State.DRAFT
    wave: int = 0
    passed_at: datetime | None = None
    reason: str = ""
    returning_since: datetime | None = None
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether there is still something to do for it."""
        return self.state in {State.RUNNING, State.PAUSED} or self.returning_since is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of a device that is targeted, or is a member.

    Attributes:
        targeted: The rollout's target names it, and it is not revoked.
        revoked: It is no longer part of the fleet.
        held: Another live rollout waits for it.
        timezone: Of its maintenance window.
        sequence: Of the last assignment made to it; 0: none.
        reported_sequence: Of the last assignment that it says it saw.
        phase: As it reports; ``None``: it never reported.
        active: What serves on it, as it reports.
        failure: Code and message of its last failed update.
        failure_sequence: Of the assignment that failed.
    """

    targeted: bool = True
    revoked: bool = False
    held: bool = False
    timezone: tzinfo = UTC
    sequence: int = 0
    reported_sequence: int = 0
    phase: Phase | None = None
    active: Release | None = None
    failure: str = ""
    failure_sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Make *release* the desired state of *device*, under *sequence*."""

    device: str
    release: Release
    sequence: int
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """Take the desired state of *device* away: it has no earlier one."""

    device: str


Action = Assign | Withdraw


@dataclass(frozen=True, slots=True)
class Step:
    """The next rollout, and what to do for it."""

    rollout: Rollout
    actions: tuple[Action, ...] = ()
