"""Enrolling, labelling and revoking devices.

Rules:
    * A device is enrolled once; a revoked one may be enrolled again, under a new password. Its
      sequence goes on rising, so that an old assignment can never look new.
    * Its password is returned once, at enrolment; only hashes are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import select
from sqlalchemy.orm import Session

from controller.broker.credentials import Credential, Login, new_password
from controller.database.schema import DeviceRow
from controller.errors import FleetError, NotFoundError
from controller.fleet.query import Query, parse_labels
from runtime.errors import UsageError
from runtime.protocol.topics import check_level

__all__ = ["TIMEZONE_LABEL", "credentials", "enroll", "find", "label", "revoke", "select_devices", "timezone_of"]

TIMEZONE_LABEL = "tz"  # of maintenance windows; an IANA name like Europe/Berlin


def enroll(session: Session, device: str, labels: Mapping[str, str], now: datetime) -> Login:
    """Make *device* part of the fleet, and return what it logs in with.

    Raises:
        ProtocolError: Its id cannot be a topic level.
        UsageError: A label is not usable.
        FleetError: It is enrolled already.
    """
    check_level("device id", device)
    checked = _checked_labels(labels)
    row = session.get(DeviceRow, device)
    if row is not None and row.revoked_at is None:
        raise FleetError(f"device {device} is enrolled already; revoke it first to give it a new password")
    login = Login(username=device, password=new_password())
    hashes = Credential.of(login)
    if row is None:
        row = DeviceRow(id=device)
        session.add(row)
    row.labels, row.bcrypt, row.mosquitto = checked, hashes.bcrypt, hashes.mosquitto
    row.enrolled_at, row.revoked_at = now, None
    row.status, row.reported = "unknown", None
    return login


def find(session: Session, device: str) -> DeviceRow:
    """Return the row of *device*, revoked or not.

    Raises:
        NotFoundError: It was never enrolled.
    """
    row = session.get(DeviceRow, device)
    if row is None:
        raise NotFoundError(f"no device {device!r}; `vedette device list` shows which there are")
    return row


def _enrolled(session: Session, device: str) -> DeviceRow:
    row = find(session, device)
    if row.revoked_at is not None:
        raise FleetError(f"device {device} was revoked at {row.revoked_at:%Y-%m-%d %H:%M} UTC")
    return row


def label(session: Session, device: str, changes: Mapping[str, str | None]) -> DeviceRow:
    """Set labels of *device*; ``None`` takes one away.

    Raises:
        NotFoundError: There is no such device.
        FleetError: It was revoked.
        UsageError: A label is not usable.
    """
    row = _enrolled(session, device)
    checked = _checked_labels({key: value for key, value in changes.items() if value is not None})
    row.labels = {key: value for key, value in row.labels.items() if key not in changes} | checked
    return row


def revoke(session: Session, device: str, now: datetime) -> DeviceRow:
    """Take *device* out of the fleet: it can no longer log in, and has no desired state.

    Raises:
        NotFoundError: There is no such device.
        FleetError: It was revoked before.
    """
    row = _enrolled(session, device)
    row.revoked_at, row.desired, row.status = now, None, "revoked"
    return row


def credentials(session: Session) -> list[Credential]:
    """Return what a broker must know of all enrolled devices, by id."""
    rows = session.scalars(select(DeviceRow).where(DeviceRow.revoked_at.is_(None)).order_by(DeviceRow.id))
    return [Credential(username=row.id, bcrypt=row.bcrypt, mosquitto=row.mosquitto) for row in rows]


def select_devices(session: Session, query: Query) -> list[DeviceRow]:
    """Return the enrolled devices that *query* means, by id."""
    rows = session.scalars(select(DeviceRow).where(DeviceRow.revoked_at.is_(None)).order_by(DeviceRow.id))
    return [row for row in rows if query.matches(row.id, row.labels)]


def timezone_of(labels: Mapping[str, str]) -> ZoneInfo:
    """Return the time zone that *labels* name; UTC if none."""
    return ZoneInfo(labels.get(TIMEZONE_LABEL, "UTC"))


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    checked = parse_labels(labels)
    try:
        timezone_of(checked)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = checked[TIMEZONE_LABEL]
        raise UsageError(f"label {TIMEZONE_LABEL}={zone!r} is no time zone; expected one like Europe/Berlin") from None
    return checked
