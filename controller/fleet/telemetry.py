"""The last values that devices measured, and their latest events; history is kept elsewhere."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from controller.database.schema import EventRow, SampleRow

__all__ = ["latest_events", "latest_samples"]


def latest_samples(session: Session, device: str) -> list[SampleRow]:
    """Return the last value of every measurement of *device*, by name."""
    return list(session.scalars(select(SampleRow).where(SampleRow.device_id == device).order_by(SampleRow.name)))


def latest_events(session: Session, device: str, most: int) -> list[EventRow]:
    """Return the *most* latest events of *device*, the newest first."""
    of_device = select(EventRow).where(EventRow.device_id == device)
    return list(session.scalars(of_device.order_by(EventRow.id.desc()).limit(most)))
