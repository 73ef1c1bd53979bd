from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import aiomqtt
import pytest

from controller.broker import tether
from controller.broker.credentials import Credential, Login, new_password
from controller.broker.embedded import EmbeddedBroker, render
from controller.broker.interface import connect
from controller.broker.mosquitto import ExternalBroker, Files, read_login
from controller.errors import BrokerError
from runtime.protocol.bundle import BrokerAddress


def address() -> BrokerAddress:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return BrokerAddress(host="127.0.0.1", port=probe.getsockname()[1], tls=False)


def login(name: str) -> Login:
    return Login(username=name, password=new_password())


# --- nats-server ----------------------------------------------------------------------------------


def test_the_configuration_names_every_user_with_a_hash_and_mqtt_only(tmp_path):
    users = [login("ctl"), login("cam1"), login("cam2")]
    text = render(address(), "lab", *[Credential.of(users[0])], [Credential.of(u) for u in users[1:]], tmp_path)
    found = json.loads(text)["accounts"]["vedette"]["users"]
    assert [user["user"] for user in found] == ["ctl", "cam1", "cam2"]
    assert all(user["allowed_connection_types"] == ["MQTT"] for user in found)
    assert not any(user.password in text for user in users)


async def test_devices_are_let_in_and_out_while_others_stay_connected(tmp_path):
    first, second = login("cam1"), login("cam2")
    async with EmbeddedBroker(tmp_path / "b", address=address(), fleet="lab", devices=[Credential.of(first)]) as broker:
        async with connect(broker, first) as staying:
            with pytest.raises(aiomqtt.MqttError):
                async with connect(broker, second):
                    pass
            both = [Credential.of(first), Credential.of(second)]
            # The same credential object means the same hash: a new salt would look like a new password.
            await broker.admit([broker._devices[0], both[1]], probe=second)
            async with connect(broker, second):
                pass
            await broker.admit([broker._devices[0]])
            with pytest.raises(aiomqtt.MqttError):
                async with connect(broker, second):
                    pass
            await staying.publish("vedette/v1/lab/devices/cam1/status", b"online", qos=1)
        assert stat.S_IMODE((tmp_path / "b" / "nats-server.json").stat().st_mode) == 0o600


async def test_retained_messages_outlive_a_restart_of_the_broker(tmp_path):
    where, device = address(), login("cam1")
    for _ in range(2):
        async with (
            EmbeddedBroker(tmp_path, address=where, fleet="lab", devices=[Credential.of(device)]) as broker,
            connect(broker, broker.login) as controller,
            connect(broker, device) as session,
        ):
            if _ == 0:
                topic = "vedette/v1/lab/devices/cam1/desired"
                await controller.publish(topic, b"v2", qos=1, retain=True)
            await session.subscribe("vedette/v1/lab/devices/cam1/desired", qos=1)
            assert (await anext(session.messages)).payload == b"v2"


async def test_a_broker_that_cannot_start_says_why(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = BrokerAddress(host="127.0.0.1", port=taken.getsockname()[1], tls=False)
        with pytest.raises(BrokerError, match=r"did not start: .*address already in use"):
            async with EmbeddedBroker(tmp_path, address=where, fleet="lab"):
                pass


async def test_a_broker_that_dies_is_noticed(tmp_path):
    async with EmbeddedBroker(tmp_path, address=address(), fleet="lab") as broker:
        broker._running().kill()
        with pytest.raises(BrokerError, match="ended by itself"):
            await broker.wait()


def test_a_tethered_program_dies_with_its_parent(tmp_path):
    """The parent is a shell that starts the program and is then killed without a chance to clean up."""
    pid_file = tmp_path / "pid"
    script = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {tether.__file__!r}, str(os.getpid()), '/bin/sleep', '60'])\n"
        "time.sleep(0.5)\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        until = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        child = int(pid_file.read_text())
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        assert command[:2] == [b"/bin/sleep", b"60"], "the tether has become the program"
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until = time.monotonic() + 10
    while time.monotonic() < until and alive(child):
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_tether_without_its_parent_does_not_start_the_program():
    done = subprocess.run(
        [sys.executable, tether.__file__, str(os.getppid()), "/bin/echo", "started"], check=False, capture_output=True
    )
    assert done.returncode == 1
    assert done.stdout == b""


# --- Mosquitto ------------------------------------------------------------------------------------


def external(tmp_path, where=None, **options):
    return ExternalBroker(
        address=where or address(),
        fleet="lab",
        files=Files(tmp_path / "m"),
        login=login("vedette-controller"),
        **options,
    )


async def test_users_are_written_for_mosquitto_with_the_controller_among_them(tmp_path):
    broker = external(tmp_path)
    device = Credential.of(login("cam1"))
    await broker.admit([device])
    lines = (tmp_path / "m" / "passwords").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["vedette-controller", "cam1"]
    assert lines[1] == f"cam1:{device.mosquitto}"
    assert (tmp_path / "m" / "acl").read_text().startswith("# Written by Vedette")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["false"], "'false' failed with code 1"),
        (["sh", "-c", "echo no such unit >&2; exit 3"], "code 3: no such unit"),
        (["no-such-program"], "cannot be run: No such file"),
    ],
)
async def test_a_reload_that_fails_is_named(tmp_path, command, said):
    with pytest.raises(BrokerError, match=said):
        await external(tmp_path, reload_command=command).admit([])


async def test_a_device_counts_as_let_in_only_when_it_can_log_in(tmp_path, monkeypatch):
    monkeypatch.setattr("controller.broker.mosquitto.RELOAD_TIMEOUT", 0.3)
    with pytest.raises(BrokerError, match="did not let 'cam1' in"):
        await external(tmp_path, reload_command=["true"]).admit([], probe=login("cam1"))


async def test_a_broker_that_is_down_is_named_with_where_its_files_are(tmp_path, monkeypatch):
    monkeypatch.setattr("controller.broker.mosquitto.CONNECT_TIMEOUT", 0.3)
    where = address()
    with pytest.raises(BrokerError, match=f"{where} did not let .*refused.*{tmp_path}"):
        async with external(tmp_path, where):
            pass


def test_the_controllers_password_is_made_once_and_kept_secret(tmp_path):
    files = Files(tmp_path)
    first, second = read_login(files, None, None), read_login(files, "me", None)
    assert first.password == second.password
    assert (first.username, second.username) == ("vedette-controller", "me")
    assert stat.S_IMODE(files.own_password.stat().st_mode) == 0o600


def test_a_given_password_file_is_used_and_an_empty_one_refused(tmp_path):
    given = tmp_path / "given"
    given.write_text("hunter2\n")
    assert read_login(Files(tmp_path), None, given).password == "hunter2"
    given.write_text("\n")
    with pytest.raises(BrokerError, match="is empty"):
        read_login(Files(tmp_path), None, given)
