"""A broker that somebody else runs: Mosquitto, by its password file and its ACL file.

Rules:
    * ``passwords`` and ``acl`` are written below `directory` before the first connection and at
      every change, atomically; a Mosquitto configured on them (infra/mosquitto) needs only SIGHUP.
    * The reload command, if there is one, is run after every change, and the change counts only
      when the new user can really log in. Without one, the operator reloads.
    * The controller's own user is a line of the same files.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiomqtt

from controller.broker.acl import mosquitto_acl
from controller.broker.credentials import Credential, Login, mosquitto_hash, new_password
from controller.broker.interface import connect
from controller.errors import BrokerError
from runtime.files import replace_bytes
from runtime.protocol.bundle import BrokerAddress

__all__ = ["CONTROLLER", "ExternalBroker", "Files", "read_login"]

CONTROLLER = "vedette-controller"  # the controller's user name, unless told otherwise
CONNECT_TIMEOUT = 8.0  # seconds
RELOAD_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Files:
    """What is written for Mosquitto, below one directory."""

    directory: Path

    @property
    def passwords(self) -> Path:
        """For ``password_file``."""
        return self.directory / "passwords"

    @property
    def acl(self) -> Path:
        """For ``acl_file``."""
        return self.directory / "acl"

    @property
    def own_password(self) -> Path:
        """The controller's password, where none was given; nothing that Mosquitto reads."""
        return self.directory / "controller.password"

    def write(self, fleet: str, controller: str, users: dict[str, str]) -> None:
        """Write both files for *users*, user name to hash; *controller* is one of them."""
        lines = "".join(f"{name}:{hashed}\n" for name, hashed in users.items())
        replace_bytes(self.passwords, lines.encode(), mode=0o640)
        replace_bytes(self.acl, mosquitto_acl(fleet, controller).encode(), mode=0o640)


def read_login(files: Files, username: str | None, password_file: Path | None) -> Login:
    """Return the controller's login: the password in *password_file*, else one made once and kept.

    Raises:
        BrokerError: *password_file* is empty.
    """
    path = password_file or files.own_password
    if password_file is None and not path.exists():
        replace_bytes(path, new_password().encode(), mode=0o600)
    password = path.read_text().strip()
    if not password:
        raise BrokerError(f"{path} is empty; expected the broker's password for the controller")
    return Login(username=username or CONTROLLER, password=password)


class ExternalBroker:
    """A Mosquitto that runs elsewhere; the context checks that it is there."""

    def __init__(
        self,
        *,
        address: BrokerAddress,
        fleet: str,
        files: Files,
        login: Login,
        devices: Sequence[Credential] = (),
        ca_pem: str | None = None,
        advertised: BrokerAddress | None = None,
        reload_command: Sequence[str] = (),
    ) -> None:
        self.address = address
        self.advertised = advertised or address
        self.ca_pem = ca_pem
        # Events wait in the broker while the controller is away. The identifier is a secret: who knew it
        # could take the session over.
        self.session: str | None = hashlib.sha256(f"{fleet}/{login.password}".encode()).hexdigest()[:23]
        self.login = login
        self._fleet = fleet
        self._files = files
        self._reload_command = tuple(reload_command)
        self._devices = devices
        self._own_hash = mosquitto_hash(login.password)

    async def __aenter__(self) -> Self:
        self._write(self._devices)
        if self._reload_command:
            await self._run_reload()
        await self._until_login(self.login, CONNECT_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the broker as it is: it is not ours to stop."""

    async def admit(self, devices: Sequence[Credential], *, probe: Login | None = None) -> None:
        """Let exactly *devices* in from now on; see `interface.Broker`."""
        self._write(devices)
        if not self._reload_command:
            return
        await self._run_reload()
        if probe is not None:
            await self._until_login(probe, RELOAD_TIMEOUT)

    async def wait(self) -> None:
        """Wait for ever: whether the broker is there is seen by who uses it."""
        await asyncio.Event().wait()

    def _write(self, devices: Sequence[Credential]) -> None:
        users = {self.login.username: self._own_hash} | {d.username: d.mosquitto for d in devices}
        self._files.write(self._fleet, self.login.username, users)

    async def _run_reload(self) -> None:
        command = " ".join(self._reload_command)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._reload_command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise BrokerError(f"reload command {command!r} cannot be run: {error.strerror}") from None
        try:
            _, complaint = await asyncio.wait_for(process.communicate(), RELOAD_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise BrokerError(f"reload command {command!r} did not end within {RELOAD_TIMEOUT:.0f} s") from None
        if process.returncode != 0:
            text = complaint.decode(errors="replace").strip()[:200]
            raise BrokerError(f"reload command {command!r} failed with code {process.returncode}: {text}")

    async def _until_login(self, login: Login, timeout: float) -> None:  # noqa: ASYNC109 - it raises its own error
        deadline, reason = time.monotonic() + timeout, "no answer"
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(timeout):
                    async with connect(self, login):
                        return
            except aiomqtt.MqttError as error:
                reason = str(error)
            except TimeoutError:
                reason = "no answer"
            except OSError as error:
                reason = error.strerror or str(error)
            await asyncio.sleep(0.1)
        raise BrokerError(
            f"broker {self.address} did not let {login.username!r} in within {timeout:.0f} s: {reason}; "
            f"its password and ACL files are in {self._files.directory}"
        )
