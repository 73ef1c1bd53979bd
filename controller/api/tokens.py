"""Bearer tokens: who may do what over the API.

Rules:
    * A token has 256 random bits, so a plain SHA-256 keeps it safe; the token itself is shown once.
    * Roles are ordered: a viewer reads, an operator also changes devices and rollouts, an admin also
      enrols, revokes and gives out tokens.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from controller.database.schema import TokenRow
from controller.errors import FleetError, NotFoundError
from runtime.files import create_bytes

__all__ = ["ADMIN", "Actor", "Role", "authenticate", "create", "delete", "ensure_admin", "listing"]

ADMIN = "admin"  # name of the token that `vedette init` makes
PREFIX = "vdt_"  # so that secret scanners can find one that leaked


class Role(IntEnum):
    """What a token is good for; each role includes those before it."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The role as it is written."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks."""

    name: str
    role: Role


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def ensure_admin(session: Session, path: Path, now: datetime) -> None:
    """Make sure that the token in the file *path* is an admin's; the file is made if it is absent, mode 0600."""
    if not path.exists():
        create_bytes(path, f"{PREFIX}{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
    digest = _digest(path.read_text().strip())
    row = session.get(TokenRow, ADMIN)
    if row is None:
        session.add(TokenRow(name=ADMIN, role=Role.ADMIN.word, sha256=digest, created_at=now))
    else:
        row.sha256 = digest


def authenticate(session: Session, token: str) -> Actor | None:
    """Return whose *token* it is; ``None`` if nobody's."""
    row = session.scalar(select(TokenRow).where(TokenRow.sha256 == _digest(token)))
    return Actor(row.name, Role[row.role.upper()]) if row is not None else None


def create(session: Session, name: str, role: Role, now: datetime) -> str:
    """Return a new token.

    Raises:
        FleetError: There is one of that name.
    """
    if session.get(TokenRow, name) is not None:
        raise FleetError(f"there is a token {name!r} already; delete it first, or choose another name")
    token = f"{PREFIX}{secrets.token_urlsafe(32)}"
    session.add(TokenRow(name=name, role=role.word, sha256=_digest(token), created_at=now))
    return token


def listing(session: Session) -> list[TokenRow]:
    """Return all tokens' rows, by name."""
    return list(session.scalars(select(TokenRow).order_by(TokenRow.name)))


def delete(session: Session, name: str) -> None:
    """Delete the token *name*.

    Raises:
        NotFoundError: There is none.
        FleetError: It is the first admin's, which is kept in a file.
    """
    row = session.get(TokenRow, name)
    if row is None:
        raise NotFoundError(f"no token {name!r}")
    if name == ADMIN:
        raise FleetError(f"token {ADMIN!r} is kept in the controller's home; remove that file and restart to change it")
    session.delete(row)
