"""The API over a real database, a real artifact store and the real rollout engine; only the broker is a double."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx
import pytest

from controller.api.app import create_app
from controller.api.services import Services
from controller.broker.credentials import Login
from controller.database.database import Database, sqlite_url
from controller.errors import BrokerError
from controller.fleet.blobs import BlobServer, ChunkIndex
from controller.jobs.queue import JobQueue
from controller.rollouts.engine import RolloutEngine
from controller.server import initialize
from runtime.home import Home
from runtime.protocol.bundle import BrokerAddress


@dataclass
class Broker:
    """Lets in whom it is told to, and keeps who that is."""

    address = BrokerAddress(host="127.0.0.1", port=1883, tls=False)
    advertised = BrokerAddress(host="broker.lab", port=1883, tls=False)
    login = Login(username="controller", password="x")
    session = None
    ca_pem = None
    admitted: list[str] = field(default_factory=list)
    fails: bool = False

    async def admit(self, devices, *, probe=None):
        if self.fails:
            raise BrokerError("nats-server did not let cam1 in within 15 s: no answer")
        self.admitted = [device.username for device in devices]
        assert probe is None or probe.username in self.admitted


@dataclass
class Bridge:
    """Keeps what it was told to publish."""

    up: asyncio.Event = field(default_factory=asyncio.Event)
    changed: list[str] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)

    def desired_changed(self, devices):
        self.changed += devices

    async def command(self, device, command):
        if not self.up.is_set():
            raise BrokerError("broker mqtt://127.0.0.1:1883 is not connected; the command was not sent")
        self.commands.append((device, command.command))


@pytest.fixture
async def services(tmp_path, published_color):
    database = Database.open(sqlite_url(tmp_path / "state.db"))
    bridge = Bridge()
    bridge.up.set()
    blobs = BlobServer(ChunkIndex(published_color), lambda _digest, _data: asyncio.sleep(0))
    engine = RolloutEngine(database, published_color, blobs.offer, bridge.desired_changed, asyncio.Event())
    yield Services(
        fleet="lab", url="http://controller", database=database, store=published_color,
        broker=Broker(), bridge=bridge, blobs=blobs, engine=engine,
        jobs=JobQueue(database, published_color),
    )  # fmt: skip
    database.close()


@pytest.fixture
def admin_token(services, tmp_path):
    home = Home(tmp_path / "home")
    return initialize(home, services.database).read_text().strip()


@pytest.fixture
async def anyone(services):
    """A client without a token."""
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://controller/api/v1") as client:
        yield client


@pytest.fixture
def api(anyone, admin_token):
    """A client with the admin's token."""
    anyone.headers["Authorization"] = f"Bearer {admin_token}"
    return anyone
