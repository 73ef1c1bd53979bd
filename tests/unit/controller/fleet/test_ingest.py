from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from controller.database.schema import DeviceRow, EventRow, StreamRow
from controller.fleet import devices, ingest, proofs, telemetry
from controller.fleet.ingest import Arrival
from runtime.protocol.messages import Event, Hardware, ModelState, Phase, Reported, Sample, Telemetry, VariantProof
from runtime.protocol.topics import Channel, DeviceTopic

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def say(database):
    """Deliver messages of cam1, each in a transaction of its own; returns why they were dropped."""
    with database.write() as session:
        devices.enroll(session, "cam1", {}, NOW)

    def deliver(channel, payload, *, device="cam1", now=NOW, retained=False):
        data = payload if isinstance(payload, bytes) else payload.to_bytes()
        topic = DeviceTopic(fleet="lab", device=device, channel=channel)
        with database.write() as session:
            return ingest.ingest(session, [Arrival(topic, data, retained)], now)

    return deliver


def reported(device="cam1", **changes):
    fields = {"device": device, "boot_id": "b", "agent_version": "1", "time": NOW, "phase": Phase.IDLE}
    return Reported(hardware=Hardware(machine="x86_64", cpu_count=2, memory_mb=100), **fields | changes)


def event(number, boot="b", **changes):
    return Event(**{"boot_id": boot, "number": number, "time": NOW, "kind": "phase", "message": f"n{number}"} | changes)


def batch(number, *samples, boot="b"):
    made = tuple(Sample(name=name, value=value, time=time) for name, value, time in samples)
    return Telemetry(boot_id=boot, number=number, samples=made)


def messages(database):
    with database.read() as session:
        return [row.message for row in telemetry.latest_events(session, "cam1", 10)]


def values(database):
    with database.read() as session:
        return {row.name: row.value for row in telemetry.latest_samples(session, "cam1")}


def test_status_and_report_become_facts(database, say):
    assert say(Channel.STATUS, b"online") == []
    assert say(Channel.REPORTED, reported(phase=Phase.PROVING, sequence=3)) == []
    with database.read() as session:
        row = session.get(DeviceRow, "cam1")
    assert (row.status, row.last_seen) == ("online", NOW)
    assert Reported.model_validate(row.reported).sequence == 3


def test_a_retained_message_is_no_sign_of_life(database, say):
    say(Channel.STATUS, b"offline", retained=True)
    with database.read() as session:
        row = session.get(DeviceRow, "cam1")
    assert (row.status, row.last_seen) == ("offline", None)


@pytest.mark.parametrize(
    ("channel", "payload"),
    [
        (Channel.STATUS, b"dancing"),
        (Channel.STATUS, b"\xff"),
        (Channel.REPORTED, b"{}"),
        (Channel.REPORTED, b"not json"),
        (Channel.REPORTED, reported(device="cam2").to_bytes()),
        (Channel.EVENTS, event(1, boot="").to_bytes()),
        (Channel.EVENTS, event(1, boot="x" * 65).to_bytes()),
        (Channel.EVENTS, event(-1).to_bytes()),
        (Channel.EVENTS, event(2**63).to_bytes()),
        (Channel.TELEMETRY, json.dumps({"boot_id": "b", "number": 1, "samples": [{}]}).encode()),
        (Channel.TELEMETRY, b"[" * 100_000),
        (Channel.DESIRED, b"{}"),
    ],
)
def test_what_is_not_of_the_protocol_is_dropped_and_changes_nothing(database, say, channel, payload):
    (reason,) = say(channel, payload)
    assert f"cam1/{channel}" in reason
    with database.read() as session:
        row = session.get(DeviceRow, "cam1")
        assert (row.status, row.reported, row.last_seen) == ("unknown", None, None)
        assert session.scalar(select(func.count()).select_from(EventRow)) == 0


def serving(*proofs, digest="a" * 64):
    """Report the model *digest*, whose variants have *proofs*: (variant, passed, latency_ms)."""
    told = tuple(
        VariantProof(
            variant=name, provider="CPUExecutionProvider", device_class="x86", passed=passed, reason="r" * 1000,
            latency_ms=latency, fp32_latency_ms=8.0,
        )
        for name, passed, latency in proofs
    )  # fmt: skip
    state = ModelState(model="m", version=1, manifest_sha256=digest, variant="a", provider="p", proofs=told)
    return reported(phase=Phase.COMMITTED, active=state)


def test_what_a_device_says_of_unproven_variants_is_kept_with_the_time_of_its_first_word(database, say):
    say(Channel.REPORTED, serving(("s8s8", True, 4.0), ("fp16", False, None)))
    say(Channel.REPORTED, serving(("s8s8", True, 2.0)), now=NOW + timedelta(hours=1))
    say(Channel.REPORTED, serving(("s8s8", True, 1.0), digest="b" * 64), now=NOW + timedelta(hours=2))
    with database.read() as session:
        fp16, s8s8 = proofs.of_model(session, "a" * 64)
    assert (fp16.variant, fp16.passed, len(fp16.reason)) == ("fp16", False, proofs.MAX_REASON)
    assert (s8s8.latency_ms, s8s8.fp32_latency_ms, s8s8.first_at, s8s8.device_class) == (2.0, 8.0, NOW, "x86")


def test_proofs_are_bounded_per_device(database, say, monkeypatch):
    monkeypatch.setattr(proofs, "MAX_PROOFS", 3)
    for number in range(6):
        say(Channel.REPORTED, serving((f"v{number}", True, 1.0)), now=NOW + timedelta(seconds=number))
    with database.read() as session:
        assert [row.variant for row in proofs.of_device(session, "cam1")] == ["v3", "v4", "v5"]


def test_unknown_and_revoked_devices_are_not_listened_to(database, say):
    assert "no enrolled device" in say(Channel.STATUS, b"online", device="stranger")[0]
    with database.write() as session:
        devices.revoke(session, "cam1", NOW)
    assert "no enrolled device" in say(Channel.STATUS, b"online")[0]


def test_one_bad_message_does_not_take_the_others_of_its_batch_with_it(database, say):
    topic = DeviceTopic(fleet="lab", device="cam1", channel=Channel.STATUS)
    with database.write() as session:
        dropped = ingest.ingest(session, [Arrival(topic, b"?"), Arrival(topic, b"online")], NOW)
    assert len(dropped) == 1
    with database.read() as session:
        assert session.get(DeviceRow, "cam1").status == "online"


def test_events_are_taken_once_per_boot_and_number(database, say):
    for number in (1, 2, 2, 1, 3):
        say(Channel.EVENTS, event(number))
    say(Channel.EVENTS, event(1, boot="next", message="next"))
    assert messages(database) == ["next", "n3", "n2", "n1"]


def test_events_are_bounded_per_device_and_in_length(database, say, monkeypatch):
    monkeypatch.setattr(ingest, "MAX_EVENTS", 3)
    for number in range(10):
        say(Channel.EVENTS, event(number, message="x" * 10_000, code="y" * 100, kind="z" * 100))
    with database.read() as session:
        rows = telemetry.latest_events(session, "cam1", 10)
    assert [row.number for row in rows] == [9, 8, 7]
    assert (len(rows[0].message), len(rows[0].code), len(rows[0].kind)) == (2000, 64, 32)


def test_remembered_boots_are_bounded(database, say):
    for boot in range(20):
        say(Channel.EVENTS, event(1, boot=str(boot)), now=NOW + timedelta(seconds=boot))
    with database.read() as session:
        kept = session.scalars(select(StreamRow.boot_id)).all()
    assert sorted(map(int, kept)) == list(range(12, 20))


def test_telemetry_keeps_the_newest_value_of_each_name(database, say):
    later = NOW + timedelta(seconds=5)
    say(Channel.TELEMETRY, batch(1, ("cpu", 1.0, NOW), ("cpu", 2.0, later), ("memory", 9.0, NOW)))
    say(Channel.TELEMETRY, batch(2, ("cpu", 0.5, NOW)))  # older than what is known
    assert values(database) == {"cpu": 2.0, "memory": 9.0}


def test_telemetry_is_taken_once_per_boot_and_number(database, say):
    say(Channel.TELEMETRY, batch(2, ("cpu", 2.0, NOW)))
    say(Channel.TELEMETRY, batch(2, ("cpu", 3.0, NOW)))
    say(Channel.TELEMETRY, batch(1, ("cpu", 4.0, NOW)))
    assert values(database) == {"cpu": 2.0}


def test_measurement_names_are_bounded_per_device(database, say, monkeypatch):
    monkeypatch.setattr(ingest, "MAX_NAMES", 2)
    say(Channel.TELEMETRY, batch(1, *((f"m{i}", float(i), NOW) for i in range(5))))
    say(Channel.TELEMETRY, batch(2, ("m0", 7.0, NOW), ("m9", 9.0, NOW)))
    assert values(database) == {"m0": 7.0, "m1": 1.0}
