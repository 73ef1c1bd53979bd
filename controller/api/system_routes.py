"""/api/v1/health, models, audit and tokens."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import func, select

from controller.api import tokens
from controller.api.access import Admin, Parts, Viewer
from controller.api.views import (
    AuditEntry,
    Health,
    ModelView,
    NewToken,
    ProofView,
    TokenRequest,
    TokenView,
    model_view,
    proof_view,
)
from controller.database.schema import DeviceRow, RolloutRow
from controller.fleet import audit, proofs
from controller.rollouts.storage import IS_LIVE
from runtime import __version__
from runtime.manifest import Manifest

__all__ = ["router"]

router = APIRouter()


@router.get("/health", tags=["system"])
def health(services: Parts) -> Health:
    """Say whether the controller works; needs no token."""
    connected = services.bridge.up.is_set()
    with services.database.read() as session:
        enrolled = select(func.count()).select_from(DeviceRow).where(DeviceRow.revoked_at.is_(None))
        live = select(func.count()).select_from(RolloutRow).where(IS_LIVE)
        return Health(
            status="ok" if connected else "degraded",
            version=__version__,
            fleet=services.fleet,
            broker=str(services.broker.advertised),
            broker_connected=connected,
            devices=session.scalar(enrolled) or 0,
            live_rollouts=session.scalar(live) or 0,
            chunks_asked=services.blobs.asked,
            chunks_sent=services.blobs.sent,
        )


@router.get("/models", tags=["models"])
def list_models(services: Parts, _actor: Viewer) -> list[ModelView]:
    """List every published version, by name and version."""
    return [view for name in services.store.names() for view in _versions(services, name)]


@router.get("/models/{name}", tags=["models"])
def list_versions(name: str, services: Parts, _actor: Viewer) -> list[ModelView]:
    """List the published versions of a model."""
    services.store.latest(name)  # raises if there is none
    return _versions(services, name)


@router.get("/models/{name}/{version}/proofs", tags=["models"])
def list_proofs(name: str, version: int, services: Parts, _actor: Viewer) -> list[ProofView]:
    """List what devices said of the variants of a version that were published as unproven."""
    digest = hashlib.sha256(services.store.manifest_bytes(name, version)).hexdigest()
    with services.database.read() as session:
        return [proof_view(row) for row in proofs.of_model(session, digest)]


def _versions(services: Parts, name: str) -> list[ModelView]:
    found = [services.store.manifest_bytes(name, version) for version in services.store.versions(name)]
    return [model_view(Manifest.parse(data), hashlib.sha256(data).hexdigest()) for data in found]


@router.get("/audit", tags=["system"])
def list_audit(services: Parts, _actor: Viewer, most: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[AuditEntry]:
    """List the latest changes, the newest first."""
    with services.database.read() as session:
        return [AuditEntry.model_validate(row) for row in audit.latest(session, most)]


@router.get("/tokens", tags=["system"])
def list_tokens(services: Parts, _actor: Admin) -> list[TokenView]:
    """List tokens by name."""
    with services.database.read() as session:
        return [TokenView.model_validate(row) for row in tokens.listing(session)]


@router.post("/tokens", status_code=201, tags=["system"])
def create_token(request: TokenRequest, services: Parts, actor: Admin) -> NewToken:
    """Give out a token; it is never shown again."""
    now = datetime.now(UTC)
    with services.database.write() as session:
        token = tokens.create(session, request.name, tokens.Role[request.role.upper()], now)
        audit.record(session, now, actor.name, "token.create", request.name, role=request.role)
    return NewToken(name=request.name, role=request.role, token=token)


@router.delete("/tokens/{name}", status_code=204, tags=["system"])
def delete_token(name: str, services: Parts, actor: Admin) -> None:
    """Delete a token; it is worth nothing from now on."""
    with services.database.write() as session:
        tokens.delete(session, name)
        audit.record(session, datetime.now(UTC), actor.name, "token.delete", name)
