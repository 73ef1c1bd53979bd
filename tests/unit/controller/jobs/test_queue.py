"""The job queue over real databases: SQLite, and PostgreSQL where it is installed."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres_server import postgres_url
from sqlalchemy import select, text

from controller.database.database import Database, sqlite_url
from controller.database.schema import AuditRow, Base
from controller.errors import FleetError, LeaseLostError, NotFoundError
from controller.jobs.core import Bounds
from controller.jobs.queue import JobQueue
from runtime.errors import ModelNotFoundError, UsageError
from runtime.protocol.jobs import Beat, Ending, JobRequest, JobState, JobView, Progress

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ALL = Progress(shards=4, committed=4)


@pytest.fixture(scope="module")
def postgres():
    with postgres_url() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    url = sqlite_url(tmp_path / "state.db") if request.param == "sqlite" else request.getfixturevalue("postgres")
    opened = Database.open(url)
    yield opened
    with opened.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(text(f"DELETE FROM {table.name}"))
    opened.close()


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now

    def forward(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(database, published_color, clock):
    return JobQueue(database, published_color, Bounds(running=2), clock)


def request(output="/out", **changes):
    return JobRequest(**{"models": ["color"], "input": "/in", "output": output} | changes)


def taken(queue, holder="ray-1"):
    found = queue.lease(holder, 60, "op")
    return None if found is None else (found[0], found[1].id)


def test_migrations_lead_to_exactly_the_models(database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_job_is_kept_as_it_was_asked_for_with_its_model_pinned(queue):
    made = queue.submit(request(options={"keep": ["label"], "batch-size": 8}, priority=3), "ann")
    view = JobView.model_validate(queue.find(made.id))
    assert view.state is JobState.QUEUED
    assert list(view.models) == ["color@2"]
    assert len(view.models["color@2"]) == 64
    assert (view.options, view.priority, view.created_by) == ({"keep": ["label"], "batch-size": 8}, 3, "ann")
    assert view.created_at == NOW


def test_the_most_urgent_goes_first_then_the_oldest_and_never_more_than_may_run(queue, clock):
    ids = []
    for number, priority in enumerate([0, 0, 5]):
        ids.append(queue.submit(request(f"/out/{number}", priority=priority), "op").id)
        clock.forward(1)
    first, second = taken(queue), taken(queue)
    assert [first[1], second[1]] == [ids[2], ids[0]]
    assert taken(queue) is None
    queue.finish(first[1], Ending(lease=first[0], state="succeeded", progress=ALL, summary={"rows": {"in": 3}}), "op")
    assert taken(queue)[1] == ids[1]
    done = JobView.model_validate(queue.find(ids[2]))
    assert (done.state, done.summary, done.ended_at) == (JobState.SUCCEEDED, {"rows": {"in": 3}}, clock.now)
    assert done.progress == ALL


def test_a_lease_that_ran_out_goes_to_the_next_holder_and_the_old_one_is_told(queue, clock):
    made = queue.submit(request(), "op")
    old, _ = taken(queue, "ray-1")
    queue.beat(made.id, Beat(lease=old, place="http://ray", run="batch-1-1", progress=Progress(shards=4, committed=1)))
    clock.forward(61)
    queue.sweep()
    assert queue.find(made.id).state == "queued"
    new, again = taken(queue, "ray-2")
    assert again == made.id
    for word in (
        lambda: queue.beat(made.id, Beat(lease=old)),
        lambda: queue.release(made.id, old, "op"),
        lambda: queue.finish(made.id, Ending(lease=old, state="succeeded"), "op"),
    ):
        with pytest.raises(LeaseLostError, match="held by ray-2"):
            word()
    view = JobView.model_validate(queue.beat(made.id, Beat(lease=new)))
    assert (view.lost, view.run, view.progress) == (1, "batch-1-1", Progress(shards=4, committed=1))


def test_a_heartbeat_keeps_the_lease(queue, clock):
    made = queue.submit(request(), "op")
    lease, _ = taken(queue)
    for _ in range(4):
        clock.forward(50)
        queue.sweep()
        assert queue.beat(made.id, Beat(lease=lease)).cancelling is False
    assert queue.find(made.id).lost == 0


def test_the_same_job_twice_is_one_job_and_another_for_its_output_is_refused(queue, clock):
    made = queue.submit(request(), "op")
    assert queue.submit(request(priority=7), "op").id == made.id
    with pytest.raises(FleetError, match=rf"job {made.id} is queued and writes /out; it differs in: input, options"):
        queue.submit(request(input="/other", options={"limit": 3}), "op")
    lease, _ = taken(queue)
    queue.finish(made.id, Ending(lease=lease, state="failed", reason="disk full"), "op")
    clock.forward(1)
    assert queue.submit(request(), "op").id != made.id
    assert [row.state for row in queue.listing(10, live=False)] == ["queued", "failed"]
    assert [row.state for row in queue.listing(10, live=True)] == ["queued"]


def test_a_running_job_is_cancelled_by_its_holder(queue):
    made = queue.submit(request(), "op")
    lease, _ = taken(queue)
    assert queue.cancel(made.id, "op").state == "running"
    assert queue.beat(made.id, Beat(lease=lease)).cancelling is True
    queue.finish(made.id, Ending(lease=lease, state="cancelled"), "op")
    with pytest.raises(FleetError, match="it is cancelled"):
        queue.cancel(made.id, "op")


def test_a_job_given_back_waits_without_a_lost_lease(queue):
    made = queue.submit(request(), "op")
    lease, _ = taken(queue)
    assert (queue.release(made.id, lease, "op").state, queue.find(made.id).lost) == ("queued", 0)
    assert taken(queue)[1] == made.id


def test_every_change_is_in_the_audit_log(queue, database, clock):
    made = queue.submit(request(), "ann")
    taken(queue, "ray-1")
    clock.forward(61)
    queue.sweep()
    queue.cancel(made.id, "bob")
    with database.read() as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.id)).all()
    assert [(row.actor, row.action) for row in rows] == [
        ("ann", "job.create"), ("op", "job.lease"), ("controller", "job.lapse"), ("bob", "job.cancel"),
    ]  # fmt: skip
    assert {row.subject for row in rows} == {made.id}


@pytest.mark.parametrize(
    ("models", "kind"), [(["nothing"], ModelNotFoundError), (["color@9"], ModelNotFoundError), (["a/b"], UsageError)]
)
def test_a_model_that_is_not_in_the_store_is_refused(queue, models, kind):
    with pytest.raises(kind):
        queue.submit(request(models=models), "op")


def test_a_job_that_is_not_there_is_named(queue):
    with pytest.raises(NotFoundError, match="no job 'j9'"):
        queue.find("j9")
    with pytest.raises(NotFoundError, match="no job 'j9'"):
        queue.cancel("j9", "op")


def test_holders_that_ask_at_once_get_a_job_each_and_no_more_than_may_run(queue, clock):
    for number in range(8):
        queue.submit(request(f"/out/{number}"), "op")
        clock.forward(1)
    found = []
    threads = [threading.Thread(target=lambda: found.append(taken(queue))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [one[1] for one in found if one is not None]
    assert len(ids) == len(set(ids)) == 2
