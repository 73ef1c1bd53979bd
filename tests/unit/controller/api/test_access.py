from __future__ import annotations

import pytest

from controller.api.problems import MAX_REQUEST

READS = [
    ("GET", "/devices"),
    ("GET", "/devices/cam1"),
    ("GET", "/devices/cam1/telemetry"),
    ("GET", "/rollouts"),
    ("GET", "/jobs"),
    ("GET", "/jobs/j1"),
    ("GET", "/models"),
    ("GET", "/audit"),
]
OPERATIONS = [
    ("PUT", "/devices/cam1/labels", {"labels": {}}),
    ("POST", "/devices/cam1/commands", {"command": "ping"}),
    ("POST", "/rollouts", {"model": "color", "target": "all"}),
    ("POST", "/rollouts/r1/pause", None),
    ("POST", "/jobs", {"models": ["color"], "input": "/in", "output": "/out"}),
    ("POST", "/jobs/leases", {"holder": "ray-1"}),
    ("POST", "/jobs/j1/cancel", None),
    ("POST", "/jobs/j1/beat", {"lease": "l1"}),
    ("POST", "/jobs/j1/release", {"lease": "l1"}),
    ("POST", "/jobs/j1/finish", {"lease": "l1", "state": "succeeded"}),
]
ADMINISTRATION = [
    ("POST", "/devices", {"id": "cam2"}),
    ("DELETE", "/devices/cam1", None),
    ("POST", "/tokens", {"name": "x", "role": "viewer"}),
    ("GET", "/tokens", None),
    ("DELETE", "/tokens/x", None),
]
EVERYTHING = [(method, path, None) for method, path in READS] + OPERATIONS + ADMINISTRATION


async def token(api, role):
    made = await api.post("/tokens", json={"name": f"a-{role}", "role": role})
    return {"Authorization": f"Bearer {made.json()['token']}"}


def expect_problem(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert "\n" not in problem["detail"]
    return problem["detail"]


@pytest.mark.parametrize(("method", "path", "body"), EVERYTHING)
async def test_nothing_is_open_without_a_token(anyone, method, path, body):
    response = await anyone.request(method, path, json=body)
    assert "no bearer token" in expect_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic YTpi", "wrong"])
async def test_a_wrong_token_is_refused(anyone, header):
    expect_problem(await anyone.get("/devices", headers={"Authorization": header}), 401)


async def test_health_needs_no_token(anyone, services):
    assert (await anyone.get("/health")).json()["status"] == "ok"
    services.bridge.up.clear()
    assert (await anyone.get("/health")).json()["status"] == "degraded"


@pytest.mark.parametrize(
    ("role", "allowed", "denied"),
    [
        ("viewer", READS, OPERATIONS + ADMINISTRATION),
        ("operator", READS + OPERATIONS, ADMINISTRATION),
        ("admin", READS + OPERATIONS + ADMINISTRATION, []),
    ],
)
async def test_each_role_may_do_its_part(api, role, allowed, denied):
    headers = await token(api, role)
    for method, path, *body in allowed:
        response = await api.request(method, path, headers=headers, json=body[0] if body else None)
        assert response.status_code not in {401, 403}, (method, path)
    for method, path, body in denied:
        detail = expect_problem(await api.request(method, path, headers=headers, json=body), 403)
        assert f"is a {role}'s" in detail


async def test_a_deleted_token_is_worth_nothing(api):
    headers = await token(api, "viewer")
    assert (await api.get("/devices", headers=headers)).status_code == 200
    assert (await api.delete("/tokens/a-viewer")).status_code == 204
    expect_problem(await api.get("/devices", headers=headers), 401)


async def test_tokens_are_listed_without_themselves_and_unique_by_name(api):
    headers = await token(api, "viewer")
    listed = (await api.get("/tokens")).json()
    assert [(one["name"], one["role"]) for one in listed] == [("a-viewer", "viewer"), ("admin", "admin")]
    assert headers["Authorization"].removeprefix("Bearer ") not in str(listed)
    assert "already" in expect_problem(await api.post("/tokens", json={"name": "a-viewer", "role": "admin"}), 409)
    expect_problem(await api.delete("/tokens/admin"), 409)
    expect_problem(await api.delete("/tokens/nobody"), 404)


async def test_a_request_that_is_too_large_is_refused_whatever_it_says_of_its_length(api):
    assert "too large" in expect_problem(await api.post("/devices", content=b" " * (MAX_REQUEST + 1)), 413)

    async def pieces():
        for _ in range(3):
            yield b" " * (MAX_REQUEST // 2)

    assert "too large" in expect_problem(await api.post("/devices", content=pieces()), 413)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "JSON decode error"),
        (b"{}", "id: Field required"),
        (b'{"id": "cam1", "extra": 1}', "extra: Extra inputs are not permitted"),
        (b'{"id": "a/b"}', "device id 'a/b' is not usable"),
        (b'{"id": "cam1", "labels": {"id": "x"}}', "label 'id' is not usable"),
    ],
)
async def test_a_body_that_is_not_usable_is_named(api, body, said):
    response = await api.post("/devices", content=body, headers={"content-type": "application/json"})
    assert said in expect_problem(response, 422)


async def test_an_unknown_path_is_a_problem_too(api):
    expect_problem(await api.get("/nothing"), 404)
    expect_problem(await api.delete("/health"), 405)


async def test_the_openapi_document_describes_every_route(anyone):
    document = (await anyone.get("/openapi.json")).json()
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    for method, path, _ in EVERYTHING:
        template = (
            path.replace("cam1", "{device}")
            .replace("r1/pause", "{rollout}/{word}")
            .replace("jobs/j1", "jobs/{job}")
            .replace("tokens/x", "tokens/{name}")
        )
        assert (method, f"/api/v1{template}") in described
