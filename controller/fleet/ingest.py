"""What devices say becomes facts in the database.

Rules:
    * Everything comes from outside: what is not of the protocol, not of an enrolled device, or says
      another device's name inside, is dropped and counted, never stored.
    * Events and telemetry are numbered within a boot; what is not above the last number is a double.
    * Everything is bounded: events kept, streams remembered and measurement names per device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from controller.database.schema import DeviceRow, EventRow, SampleRow, StreamRow
from runtime.errors import ProtocolError
from runtime.protocol.messages import Event, Reported, Status, Telemetry
from runtime.protocol.topics import Channel, DeviceTopic

__all__ = ["Arrival", "ingest"]

MAX_EVENTS = 1_000  # kept per device
MAX_STREAMS = 8  # boots remembered per device and channel
MAX_NAMES = 256  # measurements per device
MAX_MESSAGE_TEXT = 2_000  # characters of an event's message
MAX_BOOT_ID = 64  # characters


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from a device, as the broker delivered it."""

    topic: DeviceTopic
    payload: bytes
    retained: bool = False  # an old message, kept by the broker


def ingest(session: Session, arrivals: Iterable[Arrival], now: datetime) -> list[str]:
    """Write what *arrivals* say; return why messages were dropped, one text each."""
    dropped = []
    for arrival in arrivals:
        device = arrival.topic.device
        row = session.get(DeviceRow, device)
        if row is None or row.revoked_at is not None:
            dropped.append(f"{arrival.topic}: no enrolled device")
            continue
        try:
            _HANDLERS[arrival.topic.channel](session, row, arrival.payload, now)
        except (ProtocolError, KeyError, ValueError) as error:
            dropped.append(f"{arrival.topic}: {error}")
        else:
            if not arrival.retained:
                row.last_seen = now
    return dropped


def _status(_session: Session, row: DeviceRow, payload: bytes, _now: datetime) -> None:
    row.status = Status(payload.decode())


def _reported(_session: Session, row: DeviceRow, payload: bytes, _now: datetime) -> None:
    reported = Reported.parse(payload)
    if reported.device != row.id:
        raise ProtocolError(f"reported says device {reported.device!r}")
    row.reported = reported.model_dump(mode="json")


def _events(session: Session, row: DeviceRow, payload: bytes, now: datetime) -> None:
    event = Event.parse(payload)
    if not _is_new(session, row.id, Channel.EVENTS, event.boot_id, event.number, now):
        return
    session.add(
        EventRow(
            device_id=row.id,
            boot_id=event.boot_id,
            number=event.number,
            time=event.time,
            kind=event.kind[:32],
            phase=event.phase,
            sequence=event.sequence,
            code=event.code[:64],
            message=event.message[:MAX_MESSAGE_TEXT],
        )
    )
    session.flush()
    oldest_kept = (
        select(EventRow.id)
        .where(EventRow.device_id == row.id)
        .order_by(EventRow.id.desc())
        .offset(MAX_EVENTS - 1)
        .limit(1)
        .scalar_subquery()
    )
    session.execute(delete(EventRow).where(EventRow.device_id == row.id, EventRow.id < oldest_kept))


def _telemetry(session: Session, row: DeviceRow, payload: bytes, now: datetime) -> None:
    batch = Telemetry.parse(payload)
    if not _is_new(session, row.id, Channel.TELEMETRY, batch.boot_id, batch.number, now):
        return
    known = session.scalar(select(func.count()).select_from(SampleRow).where(SampleRow.device_id == row.id)) or 0
    for sample in batch.samples:
        name = sample.name[:128]
        last = session.get(SampleRow, (row.id, name))
        if last is None and known < MAX_NAMES:
            session.add(SampleRow(device_id=row.id, name=name, value=sample.value, time=sample.time))
            session.flush()  # a name may come twice in one batch
            known += 1
        elif last is not None and sample.time >= last.time:
            last.value, last.time = sample.value, sample.time


def _is_new(session: Session, device: str, channel: Channel, boot_id: str, number: int, now: datetime) -> bool:
    """Whether *number* is above the last of this boot; remembers it if so."""
    if not 0 < len(boot_id) <= MAX_BOOT_ID or not 0 <= number < 2**63:
        raise ProtocolError(f"boot id {boot_id[:MAX_BOOT_ID]!r} or number {number} is not usable")
    stream = session.get(StreamRow, (device, channel.value, boot_id))
    if stream is None:
        session.add(StreamRow(device_id=device, channel=channel.value, boot_id=boot_id, number=number, updated_at=now))
        session.flush()
        _forget_old_boots(session, device, channel)
        return True
    if number <= stream.number:
        return False
    stream.number, stream.updated_at = number, now
    return True


def _forget_old_boots(session: Session, device: str, channel: Channel) -> None:
    of_channel = (StreamRow.device_id == device, StreamRow.channel == channel.value)
    rows = session.scalars(select(StreamRow).where(*of_channel).order_by(StreamRow.updated_at.desc()))
    for row in rows.all()[MAX_STREAMS:]:
        session.delete(row)


_HANDLERS: dict[Channel, Callable[[Session, DeviceRow, bytes, datetime], None]] = {
    Channel.STATUS: _status,
    Channel.REPORTED: _reported,
    Channel.EVENTS: _events,
    Channel.TELEMETRY: _telemetry,
}
