"""Messages: they come back as they went, a newer side is understood, and what is wrong is named in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ProtocolError
from runtime.protocol.messages import (
    BLOB_WINDOW,
    MAX_MESSAGE,
    Assignment,
    BlobRequest,
    Command,
    Event,
    Failure,
    Hardware,
    Message,
    ModelState,
    Phase,
    Reported,
    Sample,
    Telemetry,
)

texts = st.text(max_size=20)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
counts = st.integers(0, 2**40)
times = st.datetimes(
    min_value=datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


states = st.builds(
    ModelState, model=names, version=st.integers(1), manifest_sha256=digests, variant=texts, provider=texts
)
failures = st.builds(Failure, code=texts, message=texts, sequence=counts, manifest_sha256=digests)
hardware = st.builds(Hardware, machine=texts, cpu_count=counts, memory_mb=counts, model=texts)
samples = st.builds(Sample, name=texts, value=st.floats(allow_nan=False, allow_infinity=False), time=times)
MESSAGES: dict[type[Message], st.SearchStrategy[Any]] = {
    Assignment: st.builds(
        Assignment,
        device=texts,
        sequence=st.integers(1, 2**40),
        model=names,
        version=st.integers(1, 2**31),
        manifest_sha256=digests,
        manifest_size=st.integers(1, 2**31),
        rollout=maybe(texts),
        config=st.dictionaries(texts, texts, max_size=3),
        not_before=maybe(times),
        deadline=maybe(times),
    ),
    Reported: st.builds(
        Reported,
        device=texts,
        boot_id=texts,
        agent_version=texts,
        time=times,
        hardware=hardware,
        providers=st.lists(texts, max_size=3).map(tuple),
        phase=st.sampled_from(Phase),
        sequence=counts,
        active=maybe(states),
        standby=maybe(states),
        failure=maybe(failures),
    ),
    Event: st.builds(
        Event, boot_id=texts, number=counts, time=times, kind=texts, phase=maybe(st.sampled_from(Phase)), message=texts
    ),
    Telemetry: st.builds(Telemetry, boot_id=texts, number=counts, samples=st.lists(samples, max_size=4).map(tuple)),
    BlobRequest: st.builds(
        BlobRequest, device=texts, digests=st.lists(digests, min_size=1, max_size=BLOB_WINDOW).map(tuple)
    ),
    Command: st.builds(Command, id=texts, command=st.just("ping"), time=times),
}


def wire(kind: type[Message]) -> dict[str, Any]:
    """An example of *kind* as parsed JSON."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    digest = "a" * 64
    examples: list[Message] = [
        Assignment(
            device="cam", sequence=1, model="m", version=1, manifest_sha256=digest, manifest_size=10, not_before=now
        ),
        Event(boot_id="b", number=1, time=now, kind="phase"),
        BlobRequest(device="cam", digests=(digest,)),
        Command(id="1", command="ping", time=now),
        Telemetry(boot_id="b", number=1, samples=(Sample(name="hw.temperature", value=50.0, time=now),)),
        Reported(
            device="cam",
            boot_id="b",
            agent_version="0.1.0",
            time=now,
            hardware=Hardware(machine="aarch64", cpu_count=4, memory_mb=8000),
            phase=Phase.IDLE,
        ),
    ]
    found = next(example for example in examples if type(example) is kind)
    parsed: dict[str, Any] = json.loads(found.to_bytes())
    return parsed


@pytest.mark.parametrize("kind", MESSAGES)
@settings(max_examples=30)
@given(data=st.data())
def test_a_message_comes_back_as_it_went(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    assert kind.parse(message.to_bytes()) == message


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_newer_side_is_understood(kind: type[Message]) -> None:
    document = wire(kind)
    assert kind.parse(json.dumps(document | {"novelty": {"deep": [1]}}).encode()) == kind.parse(
        json.dumps(document).encode()
    )


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_missing_key_is_named_in_one_line(kind: type[Message]) -> None:
    document = wire(kind)
    for key in [key for key in document if kind.model_fields[key].is_required()]:
        rest = {name: value for name, value in document.items() if name != key}
        with pytest.raises(
            ProtocolError, match=rf"{kind.__name__} message is not valid: {key}: Field required"
        ) as caught:
            kind.parse(json.dumps(rest).encode())
        assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    for kind in MESSAGES:
        with pytest.raises(ProtocolError, match=f"{kind.__name__} message is not valid: "):
            kind.parse(payload)


def test_too_large_a_message_is_refused_unread() -> None:
    padded = Command(id="1", command="ping", time=datetime.now(UTC)).to_bytes()
    padded += b" " * (MAX_MESSAGE - len(padded))
    assert Command.parse(padded).id == "1"
    with pytest.raises(ProtocolError, match=f"has {MAX_MESSAGE + 1} bytes; at most {MAX_MESSAGE} are read"):
        Command.parse(padded + b" ")


def test_times_are_utc_on_the_wire() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    sent = Command(id="1", command="ping", time=datetime(2026, 11, 22, 5, 30, tzinfo=east))
    assert json.loads(sent.to_bytes())["time"] == "2026-11-22T00:00:00Z"


@pytest.mark.parametrize("kind", [Command, Event, Reported])
def test_a_time_without_a_zone_is_refused(kind: type[Message]) -> None:
    with pytest.raises(ProtocolError, match="time: Input should have timezone info"):
        kind.parse(json.dumps(wire(kind) | {"time": "2026-11-22T00:00:00"}).encode())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Assignment, {"sequence": 0}),
        (Assignment, {"version": 0}),
        (Assignment, {"model": "../m"}),
        (Assignment, {"manifest_sha256": "x"}),
        (Assignment, {"manifest_size": 0}),
        (BlobRequest, {"digests": []}),
        (BlobRequest, {"digests": ["a" * 64] * (BLOB_WINDOW + 1)}),
        (BlobRequest, {"digests": ["../../etc/passwd"]}),
        (Command, {"command": "format-disk"}),
        (Reported, {"phase": "dancing"}),
    ],
)
def test_values_out_of_bounds_are_refused(kind: type[Message], changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=f"{kind.__name__} message is not valid: {next(iter(changes))}"):
        kind.parse(json.dumps(wire(kind) | changes).encode())


def test_a_message_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Command(id="1", command="ping", time=datetime.now(UTC)).id = "2"
