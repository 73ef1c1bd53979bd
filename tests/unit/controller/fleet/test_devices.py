from __future__ import annotations

from datetime import UTC, datetime

import bcrypt
import pytest

from controller.database.schema import DeviceRow
from controller.errors import FleetError, NotFoundError
from controller.fleet import devices
from controller.fleet.query import Query
from runtime.errors import ProtocolError, UsageError

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_a_devices_password_is_returned_once_and_kept_as_hashes(database):
    with database.write() as session:
        login = devices.enroll(session, "cam1", {"site": "lab"}, NOW)
    with database.read() as session:
        row = devices.find(session, "cam1")
        (credential,) = devices.credentials(session)
    assert login.password not in f"{row.bcrypt}{row.mosquitto}"
    assert bcrypt.checkpw(login.password.encode(), credential.bcrypt.encode())


def test_a_device_is_enrolled_once(database):
    with database.write() as session:
        devices.enroll(session, "cam1", {}, NOW)
    with pytest.raises(FleetError, match="cam1 is enrolled already"), database.write() as session:
        devices.enroll(session, "cam1", {}, NOW)


def test_a_revoked_device_may_come_back_with_a_new_password_and_its_sequence(database):
    with database.write() as session:
        first = devices.enroll(session, "cam1", {"site": "lab"}, NOW)
        session.get(DeviceRow, "cam1").sequence = 7
    with database.write() as session:
        devices.revoke(session, "cam1", NOW)
        assert devices.credentials(session) == []
        assert devices.select_devices(session, Query.parse("all")) == []
    with database.write() as session:
        second = devices.enroll(session, "cam1", {}, NOW)
        row = devices.find(session, "cam1")
    assert first.password != second.password
    assert (row.sequence, row.labels, row.desired, row.revoked_at) == (7, {}, None, None)


@pytest.mark.parametrize("change", [devices.revoke, lambda s, d, _n: devices.label(s, d, {"a": "b"})])
def test_what_is_not_enrolled_cannot_be_changed(database, change):
    with pytest.raises(NotFoundError, match="no device 'cam1'"), database.write() as session:
        change(session, "cam1", NOW)
    with database.write() as session:
        devices.enroll(session, "cam1", {}, NOW)
        devices.revoke(session, "cam1", NOW)
    with pytest.raises(FleetError, match="was revoked"), database.write() as session:
        change(session, "cam1", NOW)


def test_labels_are_set_replaced_and_taken_away(database):
    with database.write() as session:
        devices.enroll(session, "cam1", {"site": "lab", "floor": "1"}, NOW)
        row = devices.label(session, "cam1", {"floor": None, "site": "roof", "tz": "Asia/Tokyo"})
        assert row.labels == {"site": "roof", "tz": "Asia/Tokyo"}
        assert str(devices.timezone_of(row.labels)) == "Asia/Tokyo"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "/etc/passwd", "../x", "Europe"])
def test_a_label_that_names_no_time_zone_is_refused(database, zone):
    with pytest.raises(UsageError, match="no time zone"), database.write() as session:
        devices.enroll(session, "cam1", {"tz": zone}, NOW)


@pytest.mark.parametrize("device", ["", "a/b", "#", "a.b", "x" * 65])
def test_an_id_that_cannot_be_a_topic_level_is_refused(database, device):
    with pytest.raises(ProtocolError, match="device id"), database.write() as session:
        devices.enroll(session, device, {}, NOW)
