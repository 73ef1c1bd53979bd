"""The fleet for real: controller, embedded broker and agents as processes, driven by the commands of a user."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path

import aiomqtt
import psutil
import pytest
from fleet_lab import lab, wait_for

from controller.rollouts import core
from runtime.protocol.topics import Channel, FleetTopics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
TOPICS = FleetTopics("lab")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A controller with three devices that serve version 1; no test needs another before it."""
    with lab(tmp_path_factory.mktemp("lab")) as opened:
        opened.publish(1)
        opened.start_controller()
        opened.add_devices("cam1", "cam2", "cam3", site="roof")
        opened.roll_out("color@1")
        yield opened


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def brokers(pid: int) -> list[psutil.Process]:
    return [process for process in descendants(pid) if process.name() == "nats-server"]


def client(bundle, **changes):
    address = bundle.address
    login = {"username": bundle.username, "password": bundle.password.get_secret_value()} | changes
    return aiomqtt.Client(address.host, address.port, timeout=5, **login)


# --- rollouts -------------------------------------------------


@pytest.fixture
def empty_fleet(tmp_path):
    """A controller with three devices that serve nothing, for one test alone."""
    with lab(tmp_path) as opened:
        opened.publish(1)
        opened.start_controller()
        opened.add_devices("cam1", "cam2", "cam3")
        yield opened


def test_good_versions_reach_all_in_waves_and_a_broken_one_stops_at_the_first(empty_fleet):
    fleet = empty_fleet
    first = fleet.roll_out("color@1")
    assert first["state"] == "succeeded"
    assert fleet.serving() == {"cam1": "color@1", "cam2": "color@1", "cam3": "color@1"}
    order = core.cohort(first["id"], ["cam1", "cam2", "cam3"])
    assert [d["device"] for d in first["devices"] if d["wave"] == 1] == order[:1]
    assigned = {d["device"]: d["assigned_at"] for d in first["devices"]}
    assert all(assigned[device] > assigned[order[0]] for device in order[1:])

    fleet.publish(2)
    assert fleet.roll_out("color")["version"] == 2
    assert set(fleet.serving().values()) == {"color@2"}

    fleet.publish(3, broken=True)
    broken = fleet.roll_out("color@3", expect=1)
    assert broken["state"] == "paused"
    assert broken["reason"].startswith("wave 1: 1 of 1 devices failed")
    (tried,) = broken["devices"]
    assert (tried["state"], tried["wave"]) == ("failed", 1)
    assert "proof" in tried["reason"]
    time.sleep(2)  # nobody else gets it later either
    assert len(fleet.get(f"/rollouts/{broken['id']}")["devices"]) == 1
    assert set(fleet.serving().values()) == {"color@2"}
    failure = fleet.get(f"/devices/{tried['device']}")["reported"]["failure"]
    assert failure["code"] == "proof"

    # What a failed rollout leads to next: nothing new beside it, an end, and a way back for who tried.
    refused = fleet.run("vedette", "rollout", "create", "color@1", "--target", "all", expect=1)
    assert f"rollout {broken['id']} (paused) still has 3 of these devices" in refused.stderr
    fleet.run("vedette", "rollout", "rollback", broken["id"])
    wait_for("the way back", lambda: fleet.get(f"/rollouts/{broken['id']}")["state"] == "rolled_back")
    assert fleet.get(f"/devices/{tried['device']}")["desired"]["version"] == 2
    assert set(fleet.serving().values()) == {"color@2"}

    # Chunks were answered once for several devices at a time: far fewer answers than requests.
    health = fleet.get("/health")
    assert health["status"] == "ok"
    assert 0 < health["chunks_sent"] < health["chunks_asked"]

    # On failure, a rollout can also send its devices back by itself.
    fleet.publish(4, broken=True)
    back = fleet.roll_out("color@4", "--on-failure", "rollback", waves="2,100%", expect=1)
    assert back["state"] == "rolled_back"
    assert len(back["devices"]) == 2
    assert set(fleet.serving().values()) == {"color@2"}


def test_a_controller_that_is_killed_in_the_middle_of_a_rollout_goes_on_with_it(tmp_path):
    with lab(tmp_path) as fleet:
        fleet.publish(1)
        said = fleet.start_controller()
        fleet.add_devices("cam1", "cam2")
        rollout = fleet.create_rollout("color@1", "--soak", "3s")
        wait_for("wave 1", lambda: fleet.get(f"/rollouts/{rollout}")["counts"]["succeeded"] == 1)
        (broker,) = brokers(fleet.controller.pid)

        fleet.stop_controller(signal.SIGKILL)
        wait_for("the end of nats-server", lambda: not broker.is_running() or broker.status() == "zombie", 10)

        fleet.start_controller(
            listen=said["url"].removeprefix("http://"), broker=said["broker"].removeprefix("mqtt://")
        )
        fleet.run("vedette", "rollout", "watch", rollout, seconds=90)
        found = fleet.get(f"/rollouts/{rollout}")
        assert found["state"] == "succeeded"
        assert [(d["wave"], d["sequence"]) for d in found["devices"]] == [(1, 1), (2, 1)]
        assert fleet.serving() == {"cam1": "color@1", "cam2": "color@1"}

        began = time.monotonic()
        (broker,) = brokers(fleet.controller.pid)
        assert fleet.stop_controller() == 0
        assert time.monotonic() - began < 8
        assert not broker.is_running()
        assert not (fleet.home / "controller" / "server.json").exists()


# --- devices ------------------------------------------------------------------------------------------------


async def granted(session: aiomqtt.Client, topic: str) -> bool:
    return not (await session.subscribe(topic, qos=1))[0].is_failure


async def test_a_device_hears_and_says_only_what_is_its_own(fleet):
    mine, other = fleet.enroll("mine"), fleet.enroll("other")
    async with client(mine) as session, client(other) as watcher:
        assert await granted(session, TOPICS.device("mine", Channel.DESIRED))
        assert await granted(session, TOPICS.device("mine", Channel.COMMAND))
        assert await granted(session, TOPICS.blob("0" * 64))
        for forbidden in (
            TOPICS.device("other", Channel.DESIRED),
            TOPICS.device("other", Channel.COMMAND),
            TOPICS.device("other", Channel.REPORTED),
            TOPICS.every_device(Channel.DESIRED),
            TOPICS.every_device(Channel.STATUS),
            TOPICS.blob_requests,
            "vedette/v1/lab/#",
            "#",
            "$MQTT/#",
        ):
            assert not await granted(session, forbidden), forbidden

        assert await granted(watcher, TOPICS.device("other", Channel.DESIRED))
        await session.publish(TOPICS.device("other", Channel.STATUS), b"online", qos=1, retain=True)
        await session.publish(TOPICS.device("other", Channel.DESIRED), b"forged", qos=1, retain=True)
        await session.publish(TOPICS.device("mine", Channel.DESIRED), b"forged", qos=1, retain=True)
        await session.publish(TOPICS.device("mine", Channel.STATUS), b"online", qos=1, retain=True)
        with pytest.raises(TimeoutError):  # nothing forged comes through
            async with asyncio.timeout(1):
                await anext(aiter(watcher.messages))
    wait_for("the status that it may say", lambda: fleet.get("/devices/mine")["status"] == "online")
    assert fleet.get("/devices/other")["status"] == "unknown"


async def test_a_wrong_password_and_a_revoked_device_are_refused(fleet):
    bundle = fleet.enroll("short-lived", site="roof")
    with pytest.raises(aiomqtt.MqttError):
        async with client(bundle, password="wrong"):
            pass
    async with client(bundle) as session:
        fleet.run("vedette", "device", "revoke", "short-lived")
        with pytest.raises(aiomqtt.MqttError):  # it is thrown out at once
            async with asyncio.timeout(5):
                await anext(aiter(session.messages))
    with pytest.raises(aiomqtt.MqttError):
        async with client(bundle):
            pass
    assert "short-lived" not in {d["id"] for d in fleet.get("/devices")}
    again = fleet.json("vedette", "device", "enroll", "short-lived", "--out", fleet.root / "again.json")
    assert again["device"] == "short-lived"
    assert (fleet.root / "again.json").stat().st_mode & 0o777 == 0o600


def test_what_people_read_says_what_the_json_says(fleet):
    listed = fleet.run("vedette", "device", "list").stdout
    assert [line.split()[:2] for line in listed.splitlines()[2:5]] == [[f"cam{i}", "online"] for i in (1, 2, 3)]
    shown = fleet.run("vedette", "device", "show", "cam1").stdout
    assert "serving    color@1, fp32 on CPUExecutionProvider" in shown
    latest = fleet.run("vedette", "rollout", "show", "latest").stdout
    assert "rollout" in latest.splitlines()[0]
    rollouts = fleet.json("vedette", "rollout", "list")
    table = fleet.run("vedette", "rollout", "list").stdout.splitlines()[2:]
    assert [line.split()[0] for line in table] == [one["id"] for one in rollouts]
    assert "phase" in fleet.run("vedette", "device", "telemetry", "cam1").stdout


def test_orders_of_an_operator(fleet):
    rollout = fleet.create_rollout("color@1", "--soak", "1h")
    assert fleet.json("vedette", "rollout", "pause", rollout)["state"] == "paused"
    assert "paused" in fleet.run("vedette", "rollout", "watch", rollout, expect=1).stdout
    assert fleet.json("vedette", "rollout", "resume", "latest")["state"] == "running"
    assert fleet.run("vedette", "rollout", "abort", rollout).stdout.startswith("aborted")
    again = fleet.run("vedette", "rollout", "pause", rollout, expect=1)
    assert again.stderr == f"vedette: error: rollout {rollout} is aborted; to pause it, it must be running\n"
    wrong = fleet.run("vedette", "rollout", "create", "color", "--target", "all", "--waves", "10%,5%", expect=2)
    assert wrong.stderr.count("\n") == 1
    assert "cumulative" in wrong.stderr


def test_labels_telemetry_and_commands(fleet):
    labelled = fleet.json("vedette", "device", "label", "cam1", "floor=2", "tz=Europe/Berlin")
    assert labelled["labels"] == {"site": "roof", "floor": "2", "tz": "Europe/Berlin"}
    assert [d["id"] for d in fleet.json("vedette", "device", "list", "--target", "floor=2,site in (roof,cellar)")] == [
        "cam1"
    ]
    assert fleet.json("vedette", "device", "label", "cam1", "floor-")["labels"] == {
        "site": "roof",
        "tz": "Europe/Berlin",
    }
    assert fleet.json("vedette", "device", "command", "cam1", "ping")["answer"] == "pong"
    measured = wait_for("telemetry", lambda: fleet.json("vedette", "device", "telemetry", "cam1")["samples"])
    assert {sample["name"] for sample in measured} & {"system.cpu.utilization", "process.memory.usage"}


# --- what can go wrong at the start ----------------------------------------------------------------------------


def test_a_second_controller_on_the_same_home_is_refused(fleet):
    done = fleet.run(
        "vedette", "controller", "serve", "--listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0", expect=1
    )
    assert done.stderr.count("\n") == 1
    assert f"in use by process {fleet.controller.pid}" in done.stderr
    assert fleet.get("/health")["status"] == "ok"


@pytest.mark.parametrize("option", ["--listen", "--broker-listen"])
def test_a_port_in_use_is_named_with_the_option_that_chooses_another(tmp_path, option):
    with lab(tmp_path) as fleet, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = {"--listen": "127.0.0.1:0", "--broker-listen": "127.0.0.1:0"} | {option: f"127.0.0.1:{port}"}
        done = fleet.run(
            "vedette", "controller", "serve", *[part for pair in addresses.items() for part in pair], expect=1
        )
        assert done.stderr.count("\n") == 1
        assert f"127.0.0.1:{port}: Address already in use" in done.stderr
        assert option in done.stderr


def test_a_broker_that_is_down_is_one_line_and_nothing_hangs(tmp_path):
    with lab(tmp_path) as fleet, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        done = fleet.run(
            "vedette",
            "controller",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--broker",
            f"mqtt://127.0.0.1:{port}",
            expect=1,
        )
        assert done.stderr.count("\n") == 1
        assert f"mqtt://127.0.0.1:{port}" in done.stderr


def test_without_a_controller_commands_say_how_to_start_one(tmp_path):
    with lab(tmp_path) as fleet:
        done = fleet.run("vedette", "device", "list", expect=1)
        assert done.stderr.count("\n") == 1
        assert "vedette controller serve" in done.stderr
        stale = fleet.home / "controller" / "server.json"
        stale.parent.mkdir(parents=True)
        stale.write_text(json.dumps({"url": "http://127.0.0.1:9"}))
        (stale.parent / "admin.token").write_text("x")
        assert "does not answer" in fleet.run("vedette", "device", "list", expect=1).stderr


def test_the_openapi_document_is_served_and_needs_no_token(fleet):
    document = fleet.get("/openapi.json")
    assert {"/api/v1/devices", "/api/v1/rollouts", "/api/v1/models", "/api/v1/audit"} <= set(document["paths"])


def test_secrets_are_readable_by_their_owner_alone(fleet):
    for path in ("admin.token", "broker/embedded/nats-server.json"):
        assert (Path(fleet.home) / "controller" / path).stat().st_mode & 0o077 == 0
    assert fleet.enroll("secret").password.get_secret_value() not in (
        (Path(fleet.home) / "controller" / "broker" / "embedded" / "nats-server.json").read_text()
    )
