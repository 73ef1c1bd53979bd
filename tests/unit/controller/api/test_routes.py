from __future__ import annotations

from datetime import UTC, datetime

import pytest

from controller.database.schema import DeviceRow
from controller.fleet.ingest import Arrival, ingest
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Assignment, Failure, Hardware, ModelState, Phase, Reported, VariantProof
from runtime.protocol.topics import Channel, DeviceTopic

NOW = datetime(2026, 11, 22, tzinfo=UTC)


async def enroll(api, device, **labels):
    response = await api.post("/devices", json={"id": device, "labels": labels})
    assert response.status_code == 201, response.text
    return response


async def roll_out(api, model="color", target="all", **policy):
    policy = {"waves": "1,100%", "soak": "0"} | policy
    return await api.post("/rollouts", json={"model": model, "target": target, "policy": policy})


def report(services, device, phase, *, serving=True, failure=None):
    """Let *device* report about the assignment that it has."""
    with services.database.write() as session:
        desired = Assignment.model_validate(session.get(DeviceRow, device).desired)
        state = ModelState(
            model=desired.model, version=desired.version, manifest_sha256=desired.manifest_sha256,
            variant="fp32", provider="CPUExecutionProvider",
        )  # fmt: skip
        about = {"sequence": desired.sequence, "manifest_sha256": desired.manifest_sha256}
        message = Reported(
            device=device, boot_id="b", agent_version="1", time=NOW, phase=phase, sequence=desired.sequence,
            hardware=Hardware(machine="x", cpu_count=1, memory_mb=1), active=state if serving else None,
            failure=Failure(code="proof", message=failure, **about) if failure else None,
        )  # fmt: skip
        topic = DeviceTopic(fleet="lab", device=device, channel=Channel.REPORTED)
        assert ingest(session, [Arrival(topic, message.to_bytes())], NOW) == []


def desired(services):
    with services.database.read() as session:
        rows = session.query(DeviceRow).all()
        return {row.id: (row.desired or {}).get("version") for row in rows}


async def test_enrolling_answers_with_a_bundle_that_works_and_is_never_shown_again(api, services):
    response = await enroll(api, "cam1", site="lab")
    bundle = Bundle.parse(response.content)
    assert (bundle.fleet, bundle.device, bundle.broker) == ("lab", "cam1", "mqtt://broker.lab:1883")
    assert len(bundle.password.get_secret_value()) == 43
    assert services.broker.admitted == ["cam1"]
    shown = await api.get("/devices/cam1")
    assert bundle.password.get_secret_value() not in shown.text
    assert shown.json()["labels"] == {"site": "lab"}


async def test_a_device_that_the_broker_does_not_take_is_not_enrolled(api, services):
    services.broker.fails = True
    response = await api.post("/devices", json={"id": "cam1"})
    assert response.status_code == 503
    assert "did not let cam1 in" in response.json()["detail"]
    assert (await api.get("/devices")).json() == []
    services.broker.fails = False
    await enroll(api, "cam1")


async def test_revoking_takes_a_device_off_the_broker_and_clears_what_it_shall_run(api, services):
    await enroll(api, "cam1")
    await enroll(api, "cam2")
    revoked = (await api.delete("/devices/cam1")).json()
    assert (revoked["status"], revoked["desired"]) == ("revoked", None)
    assert services.broker.admitted == ["cam2"]
    assert "cam1" in services.bridge.changed
    assert [d["id"] for d in (await api.get("/devices")).json()] == ["cam2"]
    assert [d["id"] for d in (await api.get("/devices", params={"revoked": True})).json()] == ["cam1", "cam2"]
    assert (await api.delete("/devices/cam1")).status_code == 409


async def test_devices_are_selected_by_query_and_a_wrong_query_is_named(api):
    await enroll(api, "cam1", site="lab")
    await enroll(api, "cam2", site="roof")
    assert [d["id"] for d in (await api.get("/devices", params={"target": "site=roof"})).json()] == ["cam2"]
    response = await api.get("/devices", params={"target": "site=="})
    assert (response.status_code, "is no term" in response.json()["detail"]) == (422, True)


async def test_labels_change_and_null_takes_one_away(api):
    await enroll(api, "cam1", site="lab", floor="1")
    changed = await api.put("/devices/cam1/labels", json={"labels": {"floor": None, "site": "roof"}})
    assert changed.json()["labels"] == {"site": "roof"}
    assert (await api.put("/devices/cam9/labels", json={"labels": {}})).status_code == 404


async def test_a_command_is_sent_only_to_a_device_that_is_there_and_while_connected(api, services):
    await enroll(api, "cam1")
    assert (await api.post("/devices/cam1/commands", json={"command": "ping"})).status_code == 202
    assert services.bridge.commands == [("cam1", "ping")]
    assert (await api.post("/devices/cam1/commands", json={"command": "explode"})).status_code == 422
    assert (await api.post("/devices/cam9/commands", json={"command": "ping"})).status_code == 404
    services.bridge.up.clear()
    assert (await api.post("/devices/cam1/commands", json={"command": "ping"})).status_code == 503
    await api.delete("/devices/cam1")
    assert (await api.post("/devices/cam1/commands", json={"command": "ping"})).status_code == 409


async def test_models_are_listed_by_name_and_version(api):
    listed = (await api.get("/models")).json()
    assert [(model["name"], model["version"], model["variants"]) for model in listed] == [
        ("color", 1, ["fp32"]),
        ("color", 2, ["fp32"]),
    ]
    assert (await api.get("/models/color")).json() == listed
    unknown = await api.get("/models/colour")
    assert (unknown.status_code, "published are: color" in unknown.json()["detail"]) == (404, True)


async def test_what_devices_proved_is_listed_with_how_much_faster_it_was(api, services):
    await enroll(api, "cam1")
    model = (await api.get("/models/color")).json()[1]
    assert (await api.get("/models/color/2/proofs")).json() == []
    told = VariantProof(
        variant="int8-s8s8", provider="TensorrtExecutionProvider", device_class="jetson", passed=True,
        reason="it matched", latency_ms=2.0, fp32_latency_ms=5.0,
    )  # fmt: skip
    state = ModelState(
        model="color", version=2, manifest_sha256=model["digest"], variant="fp32", provider="p", proofs=(told,)
    )
    message = Reported(
        device="cam1", boot_id="b", agent_version="1", time=NOW, phase=Phase.COMMITTED, active=state,
        hardware=Hardware(machine="x", cpu_count=1, memory_mb=1),
    )  # fmt: skip
    with services.database.write() as session:
        topic = DeviceTopic(fleet="lab", device="cam1", channel=Channel.REPORTED)
        ingest(session, [Arrival(topic, message.to_bytes())], NOW)
    (proof,) = (await api.get("/models/color/2/proofs")).json()
    assert (proof["device"], proof["variant"], proof["speedup"]) == ("cam1", "int8-s8s8", 2.5)
    assert (await api.get("/models/color/1/proofs")).json() == []
    assert (await api.get("/models/color/9/proofs")).status_code == 404


async def test_a_rollout_goes_through_its_waves_as_devices_report(api, services):
    for device in ("cam1", "cam2", "cam3"):
        await enroll(api, device)
    made = (await roll_out(api)).json()
    assert (made["version"], made["state"], made["wave"], made["waves"], made["created_by"]) == (
        2,
        "running",
        1,
        2,
        "admin",
    )
    (first,) = services.engine.step_all()
    assert desired(services) == {"cam1": None, "cam2": None, "cam3": None} | {first: 2}
    assert services.engine.step_all() == set()
    report(services, first, Phase.COMMITTED)
    others = services.engine.step_all()
    assert others == {"cam1", "cam2", "cam3"} - {first}
    for device in others:
        report(services, device, Phase.COMMITTED)
    services.engine.step_all()
    shown = (await api.get(f"/rollouts/{made['id']}")).json()
    assert (shown["state"], shown["wave"]) == ("succeeded", 2)
    assert shown["counts"] == {"queued": 0, "pending": 0, "succeeded": 3, "failed": 0, "left": 0}
    assert [d["wave"] for d in shown["devices"]] == [1, 2, 2]


async def test_a_failed_wave_stops_a_rollout_and_a_rollback_leads_back(api, services):
    for device in ("cam1", "cam2", "cam3"):
        await enroll(api, device)
    await roll_out(api, "color@1", waves="100%")
    for device in services.engine.step_all():
        report(services, device, Phase.COMMITTED)
    services.engine.step_all()
    made = (await roll_out(api, "color@2")).json()["id"]
    (first,) = services.engine.step_all()
    report(services, first, Phase.FAILED, serving=False, failure="output differs")
    assert services.engine.step_all() == set()
    shown = (await api.get(f"/rollouts/{made}")).json()
    assert shown["state"] == "paused"
    assert f"{first}: proof: output differs" in shown["reason"]
    assert len(shown["devices"]) == 1

    back = (await api.post(f"/rollouts/{made}/rollback")).json()
    assert (back["state"], back["returning"]) == ("aborted", True)
    assert desired(services)[first] == 1
    assert first in services.bridge.changed
    report(services, first, Phase.COMMITTED)
    services.engine.step_all()
    assert (await api.get(f"/rollouts/{made}")).json()["state"] == "rolled_back"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"model": "colour"}, 404, "no model 'colour'"),
        ({"model": "color@9"}, 404, "no version 9"),
        ({"model": "col/our"}, 422, "names no model"),
        ({"target": "site=mars"}, 409, "no enrolled device matches 'site=mars'"),
        ({"target": "="}, 422, "is no term"),
        ({"policy": {"waves": "0%"}}, 422, "waves '0%'"),
        ({"policy": {"soak": "long"}}, 422, "duration 'long'"),
        ({"policy": {"window": "now"}}, 422, "window 'now'"),
        ({"policy": {"rate": "fast"}}, 422, "rate 'fast'"),
        ({"policy": {"max_failure_rate": 2}}, 422, "max_failure_rate"),
        ({"policy": {"on_failure": "panic"}}, 422, "on_failure"),
        ({"policy": {"typo": 1}}, 422, "typo"),
    ],
)
async def test_a_rollout_that_cannot_be_is_refused_with_the_reason(api, changes, status, said):
    await enroll(api, "cam1")
    response = await api.post("/rollouts", json={"model": "color", "target": "all"} | changes)
    assert (response.status_code, said in response.json()["detail"]) == (status, True), response.text
    assert (await api.get("/rollouts")).json() == []


async def test_two_live_rollouts_never_share_a_device(api, services):
    await enroll(api, "cam1", site="lab")
    await enroll(api, "cam2", site="roof")
    first = (await roll_out(api, target="site=lab")).json()["id"]
    refused = await roll_out(api, target="all")
    assert refused.status_code == 409
    assert f"rollout {first} (running) still has 1 of these devices (cam1)" in refused.json()["detail"]
    assert (await roll_out(api, target="site=roof")).status_code == 201
    # A device that comes to match both later gets only one at a time.
    await api.put("/devices/cam2/labels", json={"labels": {"site": "lab"}})
    services.engine.step_all()
    services.engine.step_all()
    members = [{d["device"] for d in rollout["devices"]} for rollout in (await api.get("/rollouts")).json()]
    assert sum(len(one) for one in members) == len(set().union(*members))


@pytest.mark.parametrize(("word", "state"), [("pause", "paused"), ("abort", "aborted")])
async def test_orders_change_the_state_once(api, word, state):
    await enroll(api, "cam1")
    made = (await roll_out(api)).json()["id"]
    assert (await api.post(f"/rollouts/{made}/{word}")).json()["state"] == state
    again = await api.post(f"/rollouts/{made}/{word}")
    assert (again.status_code, f"rollout {made} is {state}" in again.json()["detail"]) == (409, True)


async def test_an_unknown_order_or_rollout_is_refused(api):
    assert (await api.post("/rollouts/r1/explode")).status_code == 422
    assert (await api.post("/rollouts/r1/pause")).status_code == 404
    assert (await api.get("/rollouts/r1")).status_code == 404


async def test_every_change_is_in_the_audit_log_with_who_made_it(api):
    made = (await api.post("/tokens", json={"name": "ops", "role": "operator"})).json()
    await enroll(api, "cam1", site="lab")
    operator = {"Authorization": f"Bearer {made['token']}"}
    await api.put("/devices/cam1/labels", json={"labels": {"site": "roof"}}, headers=operator)
    rollout = (await roll_out(api)).json()["id"]
    await api.post(f"/rollouts/{rollout}/abort", headers=operator)
    await api.delete("/devices/cam1")
    await api.delete("/tokens/ops")
    log = [(entry["actor"], entry["action"], entry["subject"]) for entry in (await api.get("/audit")).json()]
    assert log[::-1] == [
        ("admin", "token.create", "ops"),
        ("admin", "device.enroll", "cam1"),
        ("ops", "device.label", "cam1"),
        ("admin", "rollout.create", rollout),
        ("ops", "rollout.abort", rollout),
        ("controller", "rollout.state", rollout),
        ("admin", "device.revoke", "cam1"),
        ("admin", "token.delete", "ops"),
    ]
    assert made["token"] not in str(log)
