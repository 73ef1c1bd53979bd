"""What devices say becomes facts in the database.

Rules:
    * Everything comes from outside: what is not of the protocol, not of an enrolled device, or says
      another device's name inside, is dropped and counted, never stored.
    * Events and telemetry are numbered within a boot; what is not above the last number is a double.
    * Everything is bounded: events kept, streams remembered and measurement names per device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from controller.database.schema import Base, DeviceRow, EventRow, SampleRow, StreamRow
from controller.fleet import proofs
from runtime.errors import ProtocolError
from runtime.protocol.messages import Event, Reported, Status, Telemetry
from runtime.protocol.topics import Channel, DeviceTopic

__all__ = ["Arrival", "ingest"]

MAX_EVENTS = 1_000  # kept per device
MAX_STREAMS = 8  # boots remembered per device and channel
MAX_NAMES = 256  # measurements per device
MAX_MESSAGE_TEXT = 2_000  # characters of an event's message
MAX_BOOT_ID = 64  # characters


Row = TypeVar("Row", bound=Base)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from a device, as the broker delivered it."""

    topic: DeviceTopic
    payload: bytes
    retained: bool = False  # an old message, kept by the broker


@dataclass(slots=True)
class _Batch:
    """One transaction's work; it holds on to every row it saw, since a session alone forgets and asks again."""

    session: Session
    now: datetime
    rows: dict[tuple[type[Base], tuple[object, ...]], Base | None] = field(default_factory=dict)
    eventful: set[str] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)  # measurements known, by device

    def get(self, kind: type[Row], *key: object) -> Row | None:
        """Return the row with that primary key, or ``None``."""
        if (kind, key) not in self.rows:
            self.rows[kind, key] = self.session.get(kind, key)
        found = self.rows[kind, key]
        return found if isinstance(found, kind) else None

    def add(self, row: Base, *key: object) -> None:
        """Keep a new row, under its primary key."""
        self.session.add(row)
        self.rows[type(row), key] = row

    def count_names(self, device: str) -> int:
        """Return how many measurements of *device* are known, and count one more."""
        if device not in self.names:
            of_device = select(func.count()).select_from(SampleRow).where(SampleRow.device_id == device)
            self.names[device] = self.session.scalar(of_device) or 0
        self.names[device] += 1
        return self.names[device] - 1


def ingest(session: Session, arrivals: Iterable[Arrival], now: datetime) -> list[str]:
    """Write what *arrivals* say; return why messages were dropped, one text each."""
    batch, dropped = _Batch(session, now), []
    with session.no_autoflush:
        for arrival in arrivals:
            row = batch.get(DeviceRow, arrival.topic.device)
            if row is None or row.revoked_at is not None:
                dropped.append(f"{arrival.topic}: no enrolled device")
                continue
            try:
                _HANDLERS[arrival.topic.channel](batch, row, arrival.payload)
            except (ProtocolError, KeyError, ValueError) as error:
                dropped.append(f"{arrival.topic}: {error}")
            else:
                if not arrival.retained:
                    row.last_seen = now
    session.flush()
    for device in batch.eventful:
        _forget_old_events(session, device)
    return dropped


def _status(_batch: _Batch, row: DeviceRow, payload: bytes) -> None:
    row.status = Status(payload.decode())


def _reported(batch: _Batch, row: DeviceRow, payload: bytes) -> None:
    reported = Reported.parse(payload)
    if reported.device != row.id:
        raise ProtocolError(f"reported says device {reported.device!r}")
    row.reported = reported.model_dump(mode="json")
    if reported.active is not None:
        proofs.keep(batch.session, row.id, reported.active, batch.now)


def _events(batch: _Batch, row: DeviceRow, payload: bytes) -> None:
    event = Event.parse(payload)
    if not _is_new(batch, row.id, Channel.EVENTS, event.boot_id, event.number):
        return
    batch.eventful.add(row.id)
    batch.session.add(
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


def _forget_old_events(session: Session, device: str) -> None:
    of_device = EventRow.device_id == device
    oldest_kept = select(EventRow.id).where(of_device).order_by(EventRow.id.desc()).offset(MAX_EVENTS - 1).limit(1)
    session.execute(delete(EventRow).where(of_device, EventRow.id < oldest_kept.scalar_subquery()))


def _telemetry(batch: _Batch, row: DeviceRow, payload: bytes) -> None:
    telemetry = Telemetry.parse(payload)
    if not _is_new(batch, row.id, Channel.TELEMETRY, telemetry.boot_id, telemetry.number):
        return
    for sample in telemetry.samples:
        name = sample.name[:128]
        last = batch.get(SampleRow, row.id, name)
        if last is not None and sample.time >= last.time:
            last.value, last.time = sample.value, sample.time
        elif last is None and batch.count_names(row.id) < MAX_NAMES:
            new = SampleRow(device_id=row.id, name=name, value=sample.value, time=sample.time)
            batch.add(new, row.id, name)


def _is_new(batch: _Batch, device: str, channel: Channel, boot_id: str, number: int) -> bool:
    """Whether *number* is above the last of this boot; remembers it if so."""
    if not 0 < len(boot_id) <= MAX_BOOT_ID or not 0 <= number < 2**63:
        raise ProtocolError(f"boot id {boot_id[:MAX_BOOT_ID]!r} or number {number} is not usable")
    key = (device, channel.value, boot_id)
    stream = batch.get(StreamRow, *key)
    if stream is None:
        new = StreamRow(device_id=device, channel=channel.value, boot_id=boot_id, number=number, updated_at=batch.now)
        batch.add(new, *key)
        _forget_old_boots(batch, device, channel)
        return True
    if number <= stream.number:
        return False
    stream.number, stream.updated_at = number, batch.now
    return True


def _forget_old_boots(batch: _Batch, device: str, channel: Channel) -> None:
    batch.session.flush()
    of_channel = (StreamRow.device_id == device, StreamRow.channel == channel.value)
    rows = batch.session.scalars(select(StreamRow).where(*of_channel).order_by(StreamRow.updated_at.desc()))
    for row in rows.all()[MAX_STREAMS:]:
        batch.session.delete(row)
        batch.rows.pop((StreamRow, (device, channel.value, row.boot_id)), None)


_HANDLERS: dict[Channel, Callable[[_Batch, DeviceRow, bytes], None]] = {
    Channel.STATUS: _status,
    Channel.REPORTED: _reported,
    Channel.EVENTS: _events,
    Channel.TELEMETRY: _telemetry,
}
