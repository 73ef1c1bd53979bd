"""The job queue over the API."""

from __future__ import annotations

import pytest

ASKED = {"models": ["color@1"], "input": "/in", "output": "/out", "options": {"keep": ["label"]}, "priority": 2}


async def test_a_job_goes_from_queue_to_holder_to_history(api):
    made = (await api.post("/jobs", json=ASKED)).json()
    assert (made["state"], made["options"], made["priority"]) == ("queued", {"keep": ["label"]}, 2)
    lease = (await api.post("/jobs/leases", json={"holder": "ray-1"})).json()
    assert lease["job"]["id"] == made["id"]
    progress = {"shards": 8, "committed": 3}
    beat = {"lease": lease["lease"], "place": "http://ray:8265", "run": "batch-1-1", "progress": progress}
    assert (await api.post(f"/jobs/{made['id']}/beat", json=beat)).json() == {"cancelling": False}
    shown = (await api.get(f"/jobs/{made['id']}")).json()
    assert (shown["state"], shown["holder"], shown["progress"]) == ("running", "ray-1", progress)
    assert lease["lease"] not in str(shown)
    ending = {"lease": lease["lease"], "state": "succeeded", "summary": {"rows": {"in": 5}}}
    await api.post(f"/jobs/{made['id']}/finish", json=ending)
    assert (await api.get("/jobs")).json()[0]["summary"] == {"rows": {"in": 5}}
    assert (await api.get("/jobs", params={"live": True})).json() == []


async def test_an_empty_queue_has_no_content(api):
    answer = await api.post("/jobs/leases", json={"holder": "ray-1"})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_lost_lease_is_a_conflict(api):
    made = (await api.post("/jobs", json=ASKED)).json()
    answer = await api.post(f"/jobs/{made['id']}/beat", json={"lease": "stale"})
    assert answer.status_code == 409
    assert "not held under that lease any more: it is queued" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"models": []}, 422, "models"),
        ({"models": ["color@7"]}, 404, "has no version 7"),
        ({"options": {"Keep it": True}}, 422, "options"),
        ({"options": {"keep": {"a": 1}}}, 422, "options"),
        ({"priority": 5000}, 422, "priority"),
        ({"more": 1}, 422, "more"),
    ],
)
async def test_a_request_that_is_not_usable_is_named(api, changes, status, said):
    answer = await api.post("/jobs", json=ASKED | changes)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
