from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.database.database import Database, sqlite_url
from controller.database.schema import DeviceRow, MemberRow, RolloutRow
from controller.rollouts.model import Member, OnFailure, Outcome, Release, State
from controller.rollouts.schedule import Wave
from controller.rollouts.spec import PolicySpec
from controller.rollouts.storage import facts, load, save
from runtime.protocol.messages import Failure, Hardware, ModelState, Phase, Reported

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DEVICES = ("cam1", "cam2", "cam3")


@pytest.fixture
def database(tmp_path):
    opened = Database.open(sqlite_url(tmp_path / "state.db"))
    with opened.write() as session:
        for device in DEVICES:
            session.add(DeviceRow(id=device, labels={"site": "lab"}, bcrypt="", mosquitto="", enrolled_at=NOW))
        session.add(rollout_row("r1"))
    yield opened
    opened.close()


def rollout_row(name, **changes):
    fields = {
        "created_at": NOW,
        "created_by": "a",
        "model": "m",
        "version": 2,
        "digest": "2" * 64,
        "target": "site=lab",
    }
    fields |= {"spec": PolicySpec().model_dump(mode="json"), "state": "running", "reason": "", "updated_at": NOW}
    return RolloutRow(id=name, **fields | changes)


times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
releases = st.builds(
    Release, model=st.just("m"), version=st.integers(1, 9), digest=st.sampled_from(["1" * 64, "3" * 64])
)
members = st.builds(
    Member,
    wave=st.integers(0, 3),
    assigned_at=times,
    sequence=st.integers(1, 99),
    previous=st.none() | releases,
    outcome=st.sampled_from(Outcome),
    reason=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    returned=st.none() | st.integers(0, 99),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_saved_is_loaded_equal(database, data):
    with database.write() as session:
        row = session.get_one(RolloutRow, "r1")
        before = load(session, row)
        after = replace(
            before,
            state=data.draw(st.sampled_from(State)),
            wave=data.draw(st.integers(0, 2)),
            passed_at=data.draw(st.none() | times),
            returning_since=data.draw(st.none() | times),
            reason=data.draw(st.sampled_from(["", "wave 1 failed"])),
            members=dict(before.members) | data.draw(st.dictionaries(st.sampled_from(DEVICES), members)),
        )
        save(session, row, before, after, NOW)
    with database.read() as session:
        assert load(session, session.get_one(RolloutRow, "r1")) == after


def test_a_policy_is_kept_in_the_operators_words():
    spec = PolicySpec(waves="1,50%", soak="1m30s", rate="5/min", window="Mon 01:00-02:00", on_failure="rollback")
    policy = PolicySpec.model_validate(spec.model_dump(mode="json")).policy()
    assert policy.waves == (Wave(count=1), Wave(percent=50))
    assert (policy.soak, policy.per_minute, policy.on_failure) == (timedelta(seconds=90), 5, OnFailure.ROLLBACK)
    assert policy.window is not None


def test_facts_are_what_devices_reported(database):
    state = ModelState(model="m", version=1, manifest_sha256="1" * 64, variant="fp32", provider="CPU")
    failure = Failure(code="proof", message="no", sequence=4, manifest_sha256="2" * 64)
    said = Reported(
        device="cam1", boot_id="b", agent_version="1", time=NOW, phase=Phase.FAILED, sequence=4, active=state,
        hardware=Hardware(machine="x", cpu_count=1, memory_mb=1), failure=failure,
    )  # fmt: skip
    with database.write() as session:
        row = session.get_one(DeviceRow, "cam1")
        row.reported, row.sequence, row.labels = said.model_dump(mode="json"), 5, {"site": "lab", "tz": "Asia/Tokyo"}
    with database.read() as session:
        found = facts(session, session.get_one(RolloutRow, "r1"), {})
    one = found["cam1"]
    assert found.keys() == set(DEVICES)
    assert (one.sequence, one.reported_sequence, one.failure_sequence, one.phase) == (5, 4, 4, Phase.FAILED)
    assert (str(one.active), one.failure, str(one.timezone)) == ("m@1", "proof: no", "Asia/Tokyo")
    assert (found["cam2"].active, found["cam2"].phase, found["cam2"].reported_sequence) == (None, None, 0)


def test_members_stay_known_when_they_no_longer_match_or_were_revoked(database):
    with database.write() as session:
        session.get_one(DeviceRow, "cam1").labels = {}
        session.get_one(DeviceRow, "cam2").revoked_at = NOW
        session.get_one(DeviceRow, "cam3").labels = {}
    member = Member(wave=0, assigned_at=NOW, sequence=1)
    with database.read() as session:
        found = facts(session, session.get_one(RolloutRow, "r1"), {"cam1": member, "cam2": member})
    assert {d: (f.targeted, f.revoked) for d, f in found.items()} == {"cam1": (False, False), "cam2": (False, True)}


@pytest.mark.parametrize(
    ("state", "outcome", "held"),
    [
        ("running", "pending", True),
        ("paused", "queued", True),
        ("running", "succeeded", False),
        ("running", "failed", False),
        ("aborted", "pending", False),
    ],
)
def test_a_device_is_held_while_another_live_rollout_waits_for_it(database, state, outcome, held):
    with database.write() as session:
        session.add(rollout_row("r2", state=state))
        session.flush()
        session.add(MemberRow(rollout_id="r2", device_id="cam1", wave=0, assigned_at=NOW, sequence=1, outcome=outcome))
    with database.read() as session:
        found = facts(session, session.get_one(RolloutRow, "r1"), {})
    assert (found["cam1"].held, found["cam2"].held) == (held, False)
