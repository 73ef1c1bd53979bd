"""A fleet behind Debian's Mosquitto with the configuration in infra/mosquitto: TLS, passwords, permissions."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fleet_lab import lab, wait_for

from runtime.protocol.topics import Channel, FleetTopics

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.skipif(MOSQUITTO is None, reason="no program mosquitto here: apt-get install mosquitto"),
]
INFRA = Path(__file__).parents[2] / "infra" / "mosquitto"
TOPICS = FleetTopics("lab")


# --- certificates --------------------------------------------------------------------------------------------


def certificate(name: str, key, issuer: str, issuer_key, *, is_ca: bool) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def write_certificates(directory: Path) -> None:
    """Write a CA, and a server certificate of it for 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = certificate("test CA", ca_key, "test CA", ca_key, is_ca=True)
    server = certificate("broker", key, "test CA", ca_key, is_ca=False)
    (directory / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (directory / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (directory / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


# --- the broker ----------------------------------------------------------------------------------------------


class Mosquitto:
    """Mosquitto on infra's configuration, with only its paths and port put in place."""

    def __init__(self, root: Path, users: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.directory = root / "etc"
        (root / "data").mkdir(parents=True)
        self.directory.mkdir()
        self.users = users
        write_certificates(self.directory)
        text = (INFRA / "mosquitto.conf").read_text()
        for found, here in {
            "listener 8883": f"listener {self.port} 127.0.0.1",
            "/etc/mosquitto/vedette": str(self.directory),
            "/var/lib/mosquitto": str(root / "data"),
        }.items():
            assert found in text
            text = text.replace(found, here)
        (root / "mosquitto.conf").write_text(text + f"user root\nlog_dest file {root / 'mosquitto.log'}\n")
        self.root = root
        self.process: subprocess.Popen[bytes] | None = None
        # Does what infra/mosquitto/reload.sh does, on a machine where nobody is root of /etc.
        self.reload = root / "reload.sh"
        self.reload.write_text(
            f"#!/bin/sh\nset -eu\ncp {users}/passwords {self.directory}/\n"
            f"cp {users}/acl {self.directory}/acl.new\nmv {self.directory}/acl.new {self.directory}/acl\n"
            f"if [ -e {root}/pid ]; then kill -HUP $(cat {root}/pid); fi\n"
        )
        self.reload.chmod(0o755)

    def start(self) -> None:
        self.process = subprocess.Popen([str(MOSQUITTO), "-c", self.root / "mosquitto.conf"])
        wait_for("mosquitto", self.listens, 10)  # a SIGHUP before it can take one would end it
        (self.root / "pid").write_text(str(self.process.pid))

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def start_once_it_has_users(self) -> None:
        if self.process is None and (self.directory / "acl").exists():
            self.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A controller that has Mosquitto as its broker, and one agent that serves version 1."""
    root = tmp_path_factory.mktemp("mosquitto")
    with lab(root / "lab") as opened:
        mosquitto = Mosquitto(root, opened.home / "controller" / "broker" / "mosquitto")
        try:
            opened.publish(1)
            # As in the README beside the configuration: the controller writes the users before it connects.
            opened.start_controller(
                "--broker", f"mqtts://127.0.0.1:{mosquitto.port}",
                "--broker-ca", str(mosquitto.directory / "ca.crt"),
                "--broker-reload-command", str(mosquitto.reload),
                before_ready=mosquitto.start_once_it_has_users,
            )  # fmt: skip
            opened.mosquitto = mosquitto
            opened.add_devices("cam1")
            opened.roll_out("color@1")
            yield opened
            opened.close()
        finally:
            mosquitto.stop()


def client(bundle, **changes):
    login = {"username": bundle.username, "password": bundle.password.get_secret_value()} | changes
    context = ssl.create_default_context(cadata=bundle.ca_pem)
    return aiomqtt.Client("127.0.0.1", bundle.address.port, timeout=5, tls_context=context, **login)


def test_a_rollout_reaches_an_agent_through_mosquitto_with_tls(fleet):
    assert fleet.roll_out("color@1")["state"] == "succeeded"
    assert fleet.serving() == {"cam1": "color@1"}
    assert fleet.json("vedette", "device", "command", "cam1", "ping")["answer"] == "pong"


async def heard(session: aiomqtt.Client, seconds: float = 1.5) -> list[tuple[str, bytes]]:
    messages = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                message = await anext(session.messages)
                messages.append((message.topic.value, message.payload))
    return messages


async def test_a_device_hears_and_says_only_what_is_its_own(fleet):
    mine, other = fleet.enroll("mine"), fleet.enroll("other")
    async with client(mine) as session, client(other) as watcher:
        await watcher.subscribe(TOPICS.device("other", Channel.DESIRED), qos=1)
        await watcher.subscribe(TOPICS.device("other", Channel.COMMAND), qos=1)
        # Mosquitto 2.0 grants any subscription and delivers only what may be read; so it is delivery that counts.
        for topic in ("#", TOPICS.every_device(Channel.COMMAND), TOPICS.device("other", Channel.COMMAND)):
            await session.subscribe(topic, qos=1)
        for topic, payload in (
            (TOPICS.device("other", Channel.STATUS), b"online"),
            (TOPICS.device("other", Channel.COMMAND), b"forged"),
            (TOPICS.device("mine", Channel.DESIRED), b"forged"),
        ):
            await session.publish(topic, payload, qos=1)
        await session.publish(TOPICS.device("mine", Channel.STATUS), b"online", qos=1, retain=True)
        with fleet.api() as api:
            await asyncio.to_thread(api.post, "/devices/other/commands", {"command": "ping"})
            await asyncio.to_thread(api.post, "/devices/mine/commands", {"command": "ping"})
        by_other, by_mine = await asyncio.gather(heard(watcher), heard(session))
    assert [topic for topic, _ in by_other] == [TOPICS.device("other", Channel.COMMAND)]
    assert b"ping" in by_other[0][1]
    assert {topic for topic, _ in by_mine} == {TOPICS.device("mine", Channel.COMMAND)}
    wait_for("the status that it may say", lambda: fleet.get("/devices/mine")["status"] == "online")
    assert fleet.get("/devices/other")["status"] == "unknown"


async def test_a_wrong_password_a_wrong_ca_and_a_revoked_device_are_refused(fleet):
    bundle = fleet.enroll("short-lived")
    with pytest.raises(aiomqtt.MqttError):
        async with client(bundle, password="wrong"):
            pass
    stranger = ssl.create_default_context()  # knows the system's CAs, not the test's
    with (
        socket.create_connection(("127.0.0.1", bundle.address.port), timeout=5) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        stranger.wrap_socket(plain, server_hostname="127.0.0.1")
    async with client(bundle):
        pass
    fleet.run("vedette", "device", "revoke", "short-lived")
    with pytest.raises(aiomqtt.MqttError):
        async with client(bundle):
            pass


def test_the_controller_outlives_a_restart_of_the_broker(fleet):
    fleet.mosquitto.stop()
    wait_for("the loss", lambda: fleet.get("/health")["status"] == "degraded")
    refused = fleet.run("vedette", "device", "command", "cam1", "ping", expect=1)
    assert "is not connected" in refused.stderr
    fleet.mosquitto.start()
    wait_for("the broker", lambda: fleet.get("/health")["status"] == "ok")
    wait_for("the device", lambda: fleet.get("/devices/cam1")["status"] == "online")
    time.sleep(0.5)
    assert fleet.get("/devices/cam1")["desired"]["version"] == 1


def test_the_acl_in_infra_is_what_the_controller_writes(fleet):
    assert (INFRA / "acl").read_text() == (fleet.home / "controller" / "broker" / "mosquitto" / "acl").read_text()
