"""The audit log: every change, with who made it, in the transaction that made it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from controller.database.schema import AuditRow

__all__ = ["latest", "record"]


def record(session: Session, now: datetime, actor: str, action: str, subject: str, /, **detail: Any) -> None:
    """Note that *actor* did *action* (``device.enroll``) to *subject*."""
    session.add(AuditRow(time=now, actor=actor, action=action, subject=subject, detail=detail))


def latest(session: Session, most: int) -> list[AuditRow]:
    """Return the *most* latest entries, the newest first."""
    return list(session.scalars(select(AuditRow).order_by(AuditRow.id.desc()).limit(most)))
