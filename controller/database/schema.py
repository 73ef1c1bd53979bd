"""The tables.

Rules:
    * Secrets are hashes: of tokens, of device passwords.
    * Times are timezone-aware in Python and UTC in the database.
    * A device's row outlives its revocation, so that its sequence never starts anew.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "AuditRow",
    "Base",
    "DeviceRow",
    "EventRow",
    "JobRow",
    "MemberRow",
    "ProofRow",
    "RolloutRow",
    "SampleRow",
    "StreamRow",
    "TokenRow",
    "UtcDateTime",
]


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time; kept without zone, in UTC, where the database knows no zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return *value* as the database keeps it."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"time without a timezone: {value}")
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return *value* as Python keeps it."""
        return value.replace(tzinfo=UTC) if value is not None else None


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {  # noqa: RUF012 - as SQLAlchemy has it
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
    }
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class DeviceRow(Base):
    """A device: what it is called, what it shall run, and what it says of itself."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[dict[str, str]]
    bcrypt: Mapped[str] = mapped_column(String(128))  # of its password, for nats-server
    mosquitto: Mapped[str] = mapped_column(String(256))  # of its password, for Mosquitto
    enrolled_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    sequence: Mapped[int] = mapped_column(default=0)  # of the last assignment; 0: none yet
    desired: Mapped[dict[str, Any] | None]  # messages.Assignment
    status: Mapped[str] = mapped_column(String(16), default="unknown")  # online | offline | unknown
    last_seen: Mapped[datetime | None]
    reported: Mapped[dict[str, Any] | None]  # messages.Reported


class RolloutRow(Base):
    """A rollout; its policy is kept as it was asked for."""

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the manifest
    target: Mapped[str] = mapped_column(Text)  # label query
    spec: Mapped[dict[str, Any]]  # rollouts.spec.PolicySpec
    state: Mapped[str] = mapped_column(String(16), index=True)
    wave: Mapped[int] = mapped_column(default=0)
    passed_at: Mapped[datetime | None]
    returning_since: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    updated_at: Mapped[datetime]


class MemberRow(Base):
    """A device that a rollout has assigned its release to."""

    __tablename__ = "rollout_devices"

    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True, index=True)
    wave: Mapped[int]
    assigned_at: Mapped[datetime]
    sequence: Mapped[int]
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")
    returned: Mapped[int | None]
    previous_model: Mapped[str | None] = mapped_column(String(64))
    previous_version: Mapped[int | None]
    previous_digest: Mapped[str | None] = mapped_column(String(64))


class TokenRow(Base):
    """A bearer token of the REST API."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]


class AuditRow(Base):
    """A change: who did what to what."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128))
    detail: Mapped[dict[str, Any]]


class EventRow(Base):
    """Something that happened on a device."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "device_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    boot_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(BigInteger)
    time: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    phase: Mapped[str | None] = mapped_column(String(16))
    sequence: Mapped[int]
    code: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)


class StreamRow(Base):
    """The last number taken from a numbered stream of a device; what is not above it is a double."""

    __tablename__ = "streams"

    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(String(16), primary_key=True)
    boot_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]


class SampleRow(Base):
    """The last value of a measurement of a device."""

    __tablename__ = "telemetry"

    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[float]
    time: Mapped[datetime]


class ProofRow(Base):
    """What came of a variant, published as unproven, on a device of its class."""

    __tablename__ = "variant_proofs"

    manifest_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    variant: Mapped[str] = mapped_column(String(64), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True, index=True)
    provider: Mapped[str] = mapped_column(String(64))  # reference
    device_class: Mapped[str] = mapped_column(String(32))
    passed: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    latency_ms: Mapped[float | None]
    fp32_latency_ms: Mapped[float | None]  # on the same provider of the same device
    first_at: Mapped[datetime]  # when the controller heard of it


class JobRow(Base):
    """A batch job of the queue, and what became of it; `runtime.protocol.jobs.JobView` says what each is."""

    __tablename__ = "batch_jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    created_by: Mapped[str] = mapped_column(String(64))
    models: Mapped[dict[str, str]]
    input: Mapped[str] = mapped_column(Text)
    output: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]]
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), index=True)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    cancelling: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    holder: Mapped[str | None] = mapped_column(String(128))
    lease_id: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[datetime | None]
    lost: Mapped[int]
    place: Mapped[str | None] = mapped_column(Text)
    run: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, Any] | None]
    summary: Mapped[dict[str, Any] | None]
