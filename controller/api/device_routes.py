"""/api/v1/devices."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import select

from controller.api.access import Admin, Operator, Parts, Viewer
from controller.api.views import (
    CommandRequest,
    DeviceEvent,
    DeviceView,
    EnrollRequest,
    LabelRequest,
    SampleView,
    TelemetryView,
    device_view,
)
from controller.database.schema import DeviceRow
from controller.fleet import devices, query, telemetry
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Command

__all__ = ["router"]

router = APIRouter(prefix="/devices", tags=["devices"])


@router.post("", status_code=201, response_model=Bundle)
async def enroll(request: EnrollRequest, services: Parts, actor: Admin) -> Response:
    """Enrol a device. The answer is its bundle, password included: it is never shown again."""
    bundle = await services.enroll(request.id, request.labels, actor.name)
    return Response(bundle.to_bytes(), 201, media_type="application/json")  # a model's own JSON hides its secret


@router.get("")
def list_devices(
    services: Parts,
    _actor: Viewer,
    target: Annotated[str, Query(description="label query")] = "all",
    revoked: Annotated[bool, Query(description="also those that were revoked")] = False,  # noqa: FBT002 - a query parameter
) -> list[DeviceView]:
    """List devices by id."""
    wanted = query.Query.parse(target)
    with services.database.read() as session:
        rows = session.scalars(select(DeviceRow).order_by(DeviceRow.id))
        return [
            device_view(row)
            for row in rows
            if (revoked or row.revoked_at is None) and wanted.matches(row.id, row.labels)
        ]


@router.get("/{device}")
def show(device: str, services: Parts, _actor: Viewer) -> DeviceView:
    """Show a device."""
    with services.database.read() as session:
        return device_view(devices.find(session, device))


@router.put("/{device}/labels")
async def label(device: str, request: LabelRequest, services: Parts, actor: Operator) -> DeviceView:
    """Set labels of a device."""
    await services.label(device, request.labels, actor.name)
    return await asyncio.to_thread(show, device, services, actor)


@router.delete("/{device}")
async def revoke(device: str, services: Parts, actor: Admin) -> DeviceView:
    """Take a device out of the fleet."""
    await services.revoke(device, actor.name)
    return await asyncio.to_thread(show, device, services, actor)


@router.get("/{device}/telemetry")
def last_telemetry(
    device: str, services: Parts, _actor: Viewer, events: Annotated[int, Query(ge=0, le=1000)] = 20
) -> TelemetryView:
    """Show the last values that a device measured, and its latest events."""
    with services.database.read() as session:
        devices.find(session, device)
        return TelemetryView(
            samples=[SampleView.model_validate(row) for row in telemetry.latest_samples(session, device)],
            events=[DeviceEvent.model_validate(row) for row in telemetry.latest_events(session, device, events)],
        )


@router.post("/{device}/commands", status_code=202)
async def command(device: str, request: CommandRequest, services: Parts, actor: Operator) -> Command:
    """Send a command to a device; it answers with an event of kind `command`."""
    return await services.command(device, request.command, actor.name)
