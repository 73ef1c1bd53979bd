"""What the API says and takes: pydantic models, and how rows become them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controller.database.schema import DeviceRow, MemberRow, ProofRow, RolloutRow
from controller.rollouts.model import Outcome
from controller.rollouts.spec import PolicySpec
from runtime.manifest import Manifest
from runtime.protocol.messages import Assignment, Reported, VariantProof

__all__ = [
    "AuditEntry",
    "CommandRequest",
    "DeviceEvent",
    "DeviceView",
    "EnrollRequest",
    "Health",
    "LabelRequest",
    "MemberView",
    "ModelView",
    "NewToken",
    "ProofView",
    "RolloutRequest",
    "RolloutView",
    "SampleView",
    "TelemetryView",
    "TokenRequest",
    "TokenView",
    "device_view",
    "model_view",
    "proof_view",
    "rollout_view",
]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Health(_View):
    """Whether the controller works."""

    status: Literal["ok", "degraded"]
    version: str
    fleet: str
    broker: str
    broker_connected: bool
    devices: int
    live_rollouts: int
    chunks_asked: int
    chunks_sent: int


class ModelView(_View):
    """A published version."""

    name: str
    version: int
    task: str
    digest: str  # SHA-256 of the manifest
    variants: list[str]
    created: datetime


def model_view(manifest: Manifest, digest: str) -> ModelView:
    """Return what is said of a published version."""
    return ModelView(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        digest=digest,
        variants=[variant.id for variant in manifest.variants],
        created=manifest.provenance.created,
    )


class ProofView(_View):
    """What came of a variant, unproven when it was published, on a device of its class."""

    variant: str
    device: str
    device_class: str
    provider: str  # NAME, or NAME:DEVICE
    passed: bool
    reason: str
    latency_ms: float | None
    fp32_latency_ms: float | None  # on the same provider of the same device
    speedup: float | None  # how many times as fast as fp32 it is there
    first_at: datetime  # when the controller heard of it


def proof_view(row: ProofRow) -> ProofView:
    """Return what is said of a proof."""
    proof = VariantProof.model_validate(row, from_attributes=True)
    return ProofView(device=row.device_id, speedup=proof.speedup, first_at=row.first_at, **proof.model_dump())


class EnrollRequest(_Request):
    """Enrol a device."""

    id: str
    labels: dict[str, str] = {}


class LabelRequest(_Request):
    """Set labels; null takes one away."""

    labels: dict[str, str | None]


class CommandRequest(_Request):
    """Send a command."""

    command: Literal["ping"]


class DeviceView(_View):
    """A device."""

    id: str
    labels: dict[str, str]
    status: str  # online | offline | unknown | revoked
    enrolled_at: datetime
    revoked_at: datetime | None
    last_seen: datetime | None
    desired: Assignment | None
    reported: Reported | None


def device_view(row: DeviceRow) -> DeviceView:
    """Return what is said of a device."""
    return DeviceView.model_validate(row)


class DeviceEvent(_View):
    """Something that happened on a device."""

    time: datetime
    boot_id: str
    number: int
    kind: str
    phase: str | None
    sequence: int
    code: str
    message: str


class SampleView(_View):
    """The last value of a measurement."""

    name: str
    value: float
    time: datetime


class TelemetryView(_View):
    """The last that a device measured, and its latest events, the newest first."""

    samples: list[SampleView]
    events: list[DeviceEvent]


class RolloutRequest(_Request):
    """Start a rollout."""

    model: str  # NAME, NAME@VERSION or NAME@latest
    target: str  # label query
    policy: PolicySpec = PolicySpec()


class MemberView(_View):
    """A device that got the release."""

    device: str
    wave: int  # from 1
    state: str  # queued | pending | succeeded | failed | left
    reason: str
    assigned_at: datetime
    sequence: int
    returned: int | None


class RolloutView(_View):
    """A rollout."""

    id: str
    model: str
    version: int
    digest: str
    target: str
    policy: PolicySpec
    state: str
    returning: bool  # devices are on their way back
    wave: int  # under way, from 1
    waves: int
    reason: str
    created_at: datetime
    created_by: str
    updated_at: datetime
    counts: dict[str, int]  # devices by state
    devices: list[MemberView]


def rollout_view(row: RolloutRow, members: list[MemberRow]) -> RolloutView:
    """Return what is said of a rollout."""
    outcomes = [member.outcome for member in members]
    policy = PolicySpec.model_validate(row.spec)
    return RolloutView(
        id=row.id,
        model=row.model,
        version=row.version,
        digest=row.digest,
        target=row.target,
        policy=policy,
        state=row.state,
        returning=row.returning_since is not None,
        wave=row.wave + 1,
        waves=len(policy.policy().waves),
        reason=row.reason,
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        counts={outcome.value: outcomes.count(outcome.value) for outcome in Outcome},
        devices=[_member_view(member) for member in members],
    )


def _member_view(row: MemberRow) -> MemberView:
    return MemberView(
        device=row.device_id,
        wave=row.wave + 1,
        state=row.outcome,
        reason=row.reason,
        assigned_at=row.assigned_at,
        sequence=row.sequence,
        returned=row.returned,
    )


class TokenRequest(_Request):
    """Give out a token."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    role: Literal["viewer", "operator", "admin"]


class TokenView(_View):
    """A token, without itself."""

    name: str
    role: str
    created_at: datetime


class NewToken(_View):
    """A new token; it is never shown again."""

    name: str
    role: str
    token: str


class AuditEntry(_View):
    """A change: who did what to what."""

    id: int
    time: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
