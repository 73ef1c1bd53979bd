from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

from controller.database.database import Database, sqlite_url
from controller.database.schema import AuditRow, Base, DeviceRow
from controller.errors import ServeError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    opened = Database.open(sqlite_url(tmp_path / "state.db"))
    yield opened
    opened.close()


def audit(**changes):
    return AuditRow(**{"time": NOW, "actor": "a", "action": "x", "subject": "s", "detail": {}} | changes)


def test_migrations_lead_to_exactly_the_models(database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_opening_twice_changes_nothing(tmp_path):
    url = sqlite_url(tmp_path / "state.db")
    first = Database.open(url)
    with first.write() as session:
        session.add(audit())
    first.close()
    second = Database.open(url)
    with second.read() as session:
        assert session.scalars(select(AuditRow)).one().actor == "a"
    second.close()


def test_times_come_back_timezone_aware_and_equal(database):
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    with database.write() as session:
        session.add(audit(time=there))
    with database.read() as session:
        found = session.scalars(select(AuditRow)).one().time
    assert found == there
    assert found.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(database):
    with pytest.raises(Exception, match="without a timezone"), database.write() as session:
        session.add(audit(time=datetime(2026, 1, 1)))  # noqa: DTZ001 - the point of the test


def test_an_error_undoes_the_whole_transaction(database):
    with pytest.raises(RuntimeError), database.write() as session:  # noqa: PT012 - the block is the transaction
        session.add(audit())
        session.flush()
        raise RuntimeError
    with database.read() as session:
        assert session.scalars(select(AuditRow)).all() == []


def test_an_absent_json_value_is_null_in_the_database(database):
    with database.write() as session:
        session.add(DeviceRow(id="cam1", labels={}, bcrypt="", mosquitto="", enrolled_at=NOW, desired=None))
    with database.read() as session:
        assert session.execute(text("SELECT desired IS NULL FROM devices")).scalar_one() == 1


def test_writers_wait_for_one_another(database):
    def write_many():
        for _ in range(25):
            with database.write() as session:
                count = len(session.scalars(select(AuditRow)).all())
                session.add(audit(subject=str(count)))

    threads = [threading.Thread(target=write_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert {row.subject for row in session.scalars(select(AuditRow))} == {str(n) for n in range(100)}


def test_sqlite_keeps_a_write_ahead_log_and_foreign_keys(database):
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    url = sqlite_url(tmp_path / "state.db")
    opened = Database.open(url)
    with opened.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    opened.close()
    with pytest.raises(ServeError, match="not written by this version"):
        Database.open(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "expected a URL"),
        ("foo://x", "expected a URL"),
        ("sqlite:////nonexistent/dir/x.db", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url, said):
    with pytest.raises(ServeError, match=said):
        Database.open(url)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database, but long enough to be looked at" * 50)
    with pytest.raises(ServeError, match="cannot be used"):
        Database.open(sqlite_url(path))


def test_the_tables_are_the_ones_that_the_design_names(database):
    assert {"devices", "rollouts", "rollout_devices", "tokens", "audit", "telemetry", "events"} <= set(
        inspect(database.engine).get_table_names()
    )


def test_a_full_disk_is_one_error_and_nothing_is_half_written(database):
    with database.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(ServeError, match="cannot be written: database or disk is full"), database.write() as session:
        session.add_all(audit(subject="x" * 100) for _ in range(1000))
    with database.read() as session:
        assert session.scalars(select(AuditRow)).all() == []
