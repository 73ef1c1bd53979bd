"""What the routes stand on: the parts of a running controller, and the changes that touch several of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import SecretStr

from controller.broker.credentials import Credential, Login
from controller.broker.interface import Broker
from controller.database.database import Database
from controller.errors import BrokerError, FleetError
from controller.fleet import audit, devices
from controller.fleet.blobs import BlobServer
from controller.fleet.bridge import Bridge
from controller.jobs.queue import JobQueue
from controller.rollouts.engine import RolloutEngine
from controller.rollouts.spec import PolicySpec
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Command
from runtime.store import ModelStore

__all__ = ["Services"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """A running controller.

    Attributes:
        fleet: Its name.
        url: Where its API is reached.
    """

    fleet: str
    url: str
    database: Database
    store: ModelStore
    broker: Broker
    bridge: Bridge
    blobs: BlobServer
    engine: RolloutEngine
    jobs: JobQueue
    _admission: asyncio.Lock = field(default_factory=asyncio.Lock)  # the broker's list follows the database's order

    async def enroll(self, device: str, labels: Mapping[str, str], actor: str) -> Bundle:
        """Make *device* part of the fleet, and return its bundle once the broker lets it in.

        Raises:
            ProtocolError, UsageError, FleetError: As `devices.enroll`.
            BrokerError: The broker did not take the device; it is not enrolled then.
        """
        async with self._admission:
            login = await asyncio.to_thread(self._enroll, device, labels, actor)
            try:
                await self.broker.admit(await asyncio.to_thread(self._credentials), probe=login)
            except BrokerError:
                await asyncio.to_thread(self._revoke, device, "controller")
                raise
        return Bundle(
            fleet=self.fleet,
            device=device,
            broker=str(self.broker.advertised),
            username=login.username,
            password=SecretStr(login.password),
            ca_pem=self.broker.ca_pem if self.broker.advertised.tls else None,
            controller=self.url,
        )

    async def revoke(self, device: str, actor: str) -> None:
        """Take *device* out of the fleet and off the broker.

        Raises:
            NotFoundError, FleetError: As `devices.revoke`.
            BrokerError: The broker did not take the new list.
        """
        async with self._admission:
            await asyncio.to_thread(self._revoke, device, actor)
            self.bridge.desired_changed([device])
            await self.broker.admit(await asyncio.to_thread(self._credentials))
        self.engine.wake.set()

    async def label(self, device: str, labels: Mapping[str, str | None], actor: str) -> None:
        """Set labels of *device*; raises as `devices.label`."""
        await asyncio.to_thread(self._label, device, labels, actor)
        self.engine.wake.set()

    async def command(self, device: str, word: str, actor: str) -> Command:
        """Send a command to *device*; it answers with an event.

        Raises:
            NotFoundError: There is no such device.
            FleetError: It was revoked.
            BrokerError: There is no connection to the broker.
        """
        command = Command.model_validate({"id": secrets.token_hex(8), "command": word, "time": datetime.now(UTC)})
        await asyncio.to_thread(self._note_command, device, word, actor)
        await self.bridge.command(device, command)
        return command

    async def create_rollout(self, model: str, target: str, spec: PolicySpec, actor: str) -> str:
        """Start a rollout and return its id; raises as `RolloutEngine.create`."""
        rollout = await asyncio.to_thread(self.engine.create, model, target, spec, actor)
        self.engine.wake.set()
        return rollout

    async def order_rollout(self, rollout: str, word: str, actor: str) -> None:
        """Give an order to a rollout; raises as `RolloutEngine.order`."""
        self.bridge.desired_changed(await asyncio.to_thread(self.engine.order, rollout, word, actor))
        self.engine.wake.set()

    def _enroll(self, device: str, labels: Mapping[str, str], actor: str) -> Login:
        now = datetime.now(UTC)
        with self.database.write() as session:
            login = devices.enroll(session, device, labels, now)
            audit.record(session, now, actor, "device.enroll", device, labels=dict(labels))
        return login

    def _revoke(self, device: str, actor: str) -> None:
        now = datetime.now(UTC)
        with self.database.write() as session:
            devices.revoke(session, device, now)
            audit.record(session, now, actor, "device.revoke", device)

    def _label(self, device: str, labels: Mapping[str, str | None], actor: str) -> None:
        with self.database.write() as session:
            devices.label(session, device, labels)
            audit.record(session, datetime.now(UTC), actor, "device.label", device, labels=dict(labels))

    def _note_command(self, device: str, word: str, actor: str) -> None:
        now = datetime.now(UTC)
        with self.database.write() as session:
            if devices.find(session, device).revoked_at is not None:
                raise FleetError(f"device {device} was revoked; it gets no commands")
            audit.record(session, now, actor, "device.command", device, command=word)

    def _credentials(self) -> list[Credential]:
        with self.database.read() as session:
            return devices.credentials(session)
