"""/api/v1/rollouts."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from fastapi import APIRouter
from sqlalchemy import select

from controller.api.access import Operator, Parts, Viewer
from controller.api.views import RolloutRequest, RolloutView, rollout_view
from controller.database.schema import RolloutRow
from controller.rollouts.storage import find, members_of

__all__ = ["router"]

router = APIRouter(prefix="/rollouts", tags=["rollouts"])


class OrderWord(StrEnum):
    """The keys of `engine.ORDERS`, as part of a path."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ROLLBACK = "rollback"


@router.post("", status_code=201)
async def create(request: RolloutRequest, services: Parts, actor: Operator) -> RolloutView:
    """Start a rollout."""
    rollout = await services.create_rollout(request.model, request.target, request.policy, actor.name)
    return await asyncio.to_thread(show, rollout, services, actor)


@router.get("")
def list_rollouts(services: Parts, _actor: Viewer) -> list[RolloutView]:
    """List rollouts, the newest first."""
    with services.database.read() as session:
        rows = session.scalars(select(RolloutRow).order_by(RolloutRow.created_at.desc()))
        return [rollout_view(row, members_of(session, row.id)) for row in rows]


@router.get("/{rollout}")
def show(rollout: str, services: Parts, _actor: Viewer) -> RolloutView:
    """Show a rollout with its devices."""
    with services.database.read() as session:
        return rollout_view(find(session, rollout), members_of(session, rollout))


@router.post("/{rollout}/{word}")
async def order(rollout: str, word: OrderWord, services: Parts, actor: Operator) -> RolloutView:
    """Pause, resume, abort or roll back a rollout."""
    await services.order_rollout(rollout, word.value, actor.name)
    return await asyncio.to_thread(show, rollout, services, actor)
