"""The running controller: database, broker, bridge, rollouts and API in one process.

Rules:
    * One controller a home: a second one is refused while the first one runs.
    * What can be in use (addresses) or absent (broker, database) is found out before anything is served,
      and is one error that names it.
    * ``<home>/controller/server.json`` says where a running controller is; it is removed at the end.
    * SIGINT and SIGTERM end everything within seconds; so does the end of any part by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from controller.api import tokens
from controller.api.app import create_app
from controller.api.services import Services
from controller.broker.credentials import Credential
from controller.broker.embedded import EmbeddedBroker
from controller.broker.mosquitto import ExternalBroker, Files, read_login
from controller.database.database import Database, sqlite_url
from controller.errors import ServeError
from controller.fleet.blobs import DEFAULT_RATE, BlobServer, ChunkIndex
from controller.fleet.bridge import Bridge
from controller.fleet.devices import credentials
from controller.jobs.core import Bounds
from controller.jobs.queue import JobQueue
from controller.rollouts.engine import RolloutEngine
from runtime.errors import UsageError, VedetteError
from runtime.files import exclusive_lock, replace_bytes
from runtime.home import Home
from runtime.presence import Presence
from runtime.protocol.bundle import BrokerAddress
from runtime.protocol.topics import check_level
from runtime.store import ModelStore

__all__ = ["Settings", "initialize", "open_database", "parse_listen", "serve"]

EMBEDDED = "embedded"
CONNECT_TIMEOUT = 10.0  # seconds until the bridge must have reached the broker
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
BIND_PATIENCE = 1.0  # seconds
GRACE = 3  # seconds for requests under way at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `vedette controller serve` was told; each is one of its options.

    Attributes:
        listen: HOST:PORT of the API; port 0: any free one.
        broker: ``embedded``, or the URL of an external one.
        broker_listen: HOST:PORT of the embedded broker; port 0: any free one.
        advertise_broker: URL of the broker for devices, where it differs.
        broker_username: The controller's user at an external broker.
        broker_password_file: Its password.
        broker_ca: PEM certificates that an external broker's must chain to.
        broker_reload: Command that makes an external broker read its files again.
        database: URL; ``None``: SQLite in the home.
        store: URI of the artifact store; ``None``: the home's.
        fleet: Its name, a level of every topic.
        chunk_rate: Bytes a second that all devices together are sent.
        batch_jobs: Jobs of the queue that run at a time, at most.
    """

    listen: str = "127.0.0.1:8420"
    broker: str = EMBEDDED
    broker_listen: str = "127.0.0.1:1883"
    advertise_broker: str | None = None
    broker_username: str | None = None
    broker_password_file: Path | None = None
    broker_ca: Path | None = None
    broker_reload: Sequence[str] = ()
    database: str | None = None
    store: str | None = None
    fleet: str = "lab"
    chunk_rate: float = DEFAULT_RATE
    batch_jobs: int = 4


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises:
        UsageError: It is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"address {text!r} is not usable: expected HOST:PORT, like 127.0.0.1:8420; port 0 is any")
    return host.strip("[]"), int(port)


def initialize(home: Home, database: Database) -> Path:
    """Make the admin's token if there is none yet, and return the file that holds it."""
    path = Presence(home).token
    with database.write() as session:
        tokens.ensure_admin(session, path, datetime.now(UTC))
    return path


def open_database(home: Home, url: str | None) -> Database:
    """Open the database at *url*, or the home's own.

    Raises:
        ServeError: It cannot be used.
    """
    if url is None:
        home.controller.mkdir(parents=True, exist_ok=True, mode=0o700)
        url = sqlite_url(home.controller / "controller.db")
    return Database.open(url)


async def serve(settings: Settings, home: Home, ready: Callable[[dict[str, object]], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: What was asked for.
        home: Where the state is.
        ready: Told where everything is, once it serves.

    Raises:
        HomeError: Another controller runs on *home*.
        ServeError: An address is in use, or the database cannot be used.
        BrokerError: The broker cannot be started or reached, or ended by itself.
    """
    check_level("fleet", settings.fleet)
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive_lock(home.controller / "lock", f"controller home {home.root}"))
        listener = stack.enter_context(await _bind(*parse_listen(settings.listen), "the API", "--listen"))
        database = await asyncio.to_thread(open_database, home, settings.database)
        stack.callback(database.close)
        await asyncio.to_thread(initialize, home, database)
        with database.read() as session:
            known = credentials(session)
        try:
            async with await _broker(settings, home, known) as broker:
                await _run(settings, home, listener, database, broker, ready)
        except BaseExceptionGroup as group:
            raise _cause(group) from None


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return why the parts ended: an error of ours if there is one."""
    ours = group.subgroup(VedetteError)
    found: BaseException = ours or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _broker(settings: Settings, home: Home, known: Sequence[Credential]) -> EmbeddedBroker | ExternalBroker:
    advertised = BrokerAddress.parse(settings.advertise_broker) if settings.advertise_broker else None
    root = home.controller / "broker"
    if settings.broker == EMBEDDED:
        host, port = parse_listen(settings.broker_listen)
        with await _bind(host, port, "the embedded broker", "--broker-listen") as probe:
            port = probe.getsockname()[1]
        address = BrokerAddress(host=host, port=port, tls=False)
        if advertised is None and host in EVERYWHERE:
            advertised = replace(address, host=socket.gethostname())
        return EmbeddedBroker(
            root / "embedded", address=address, fleet=settings.fleet, devices=known, advertised=advertised
        )
    files = Files(root / "mosquitto")
    return ExternalBroker(
        address=BrokerAddress.parse(settings.broker),
        fleet=settings.fleet,
        files=files,
        login=read_login(files, settings.broker_username, settings.broker_password_file),
        devices=known,
        ca_pem=settings.broker_ca.read_text() if settings.broker_ca else None,
        advertised=advertised,
        reload_command=settings.broker_reload,
    )


async def _run(
    settings: Settings,
    home: Home,
    listener: socket.socket,
    database: Database,
    broker: EmbeddedBroker | ExternalBroker,
    ready: Callable[[dict[str, object]], None],
) -> None:
    store = await asyncio.to_thread(ModelStore.open, settings.store)
    wake = asyncio.Event()
    index = ChunkIndex(store)
    await asyncio.to_thread(index.scan)
    bridge = Bridge(broker=broker, fleet=settings.fleet, database=database, on_facts=wake.set)
    blobs = BlobServer(index, bridge.publish_chunk, rate=settings.chunk_rate)
    bridge.on_request = blobs.ask
    engine = RolloutEngine(database, store, blobs.offer, bridge.desired_changed, wake)
    host, port = listener.getsockname()[:2]
    services = Services(
        fleet=settings.fleet,
        url=f"http://{_reachable(host)}:{port}",
        database=database,
        store=store,
        broker=broker,
        bridge=bridge,
        blobs=blobs,
        engine=engine,
        jobs=JobQueue(database, store, Bounds(running=settings.batch_jobs)),
    )
    stop = asyncio.Event()
    http = _Server(services)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(bridge.run(), name="bridge"),
            group.create_task(blobs.run(), name="blobs"),
            group.create_task(engine.run(), name="rollouts"),
            group.create_task(services.jobs.run(), name="jobs"),
            group.create_task(broker.wait(), name="broker"),
        ]
        await _until_connected(bridge, broker.address)
        api = group.create_task(http.serve(sockets=[listener]), name="api")
        with _announced(home, services, ready), _signals(stop):
            await stop.wait()
        http.should_exit = True
        await api
        for task in tasks:
            task.cancel()


async def _until_connected(bridge: Bridge, address: BrokerAddress) -> None:
    try:
        await asyncio.wait_for(bridge.up.wait(), CONNECT_TIMEOUT)
    except TimeoutError:
        raise ServeError(f"broker {address} was not reached within {CONNECT_TIMEOUT:.0f} s") from None


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the controller has its own, for all of its parts."""

    def __init__(self, services: Services) -> None:
        app = create_app(services)
        super().__init__(
            uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=GRACE, access_log=False)
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _announced(home: Home, services: Services, ready: Callable[[dict[str, object]], None]) -> Iterator[None]:
    """Say where the controller is, for as long as it is there."""
    file = Presence(home)
    said: dict[str, object] = {
        "event": "ready",
        "pid": os.getpid(),
        "fleet": services.fleet,
        "url": services.url,
        "broker": str(services.broker.advertised),
        "store": services.store.uri,
        "home": str(home.root),
        "token_file": str(file.token),
    }
    replace_bytes(file.path, (json.dumps(said, indent=1) + "\n").encode())
    try:
        ready(said)
        yield
    finally:
        file.path.unlink(missing_ok=True)


async def _bind(host: str, port: int, what: str, option: str) -> socket.socket:
    """Return a socket that listens on *host* and *port*; *what* wants it, and *option* would choose another.

    A broker whose controller was killed may need a moment to end, so that an address gets `BIND_PATIENCE`.
    """
    deadline = time.monotonic() + BIND_PATIENCE
    while True:
        try:
            return socket.create_server((host, port), family=_family(host, port), backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                text = f"{what} cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
                raise ServeError(f"{text}; stop what uses it, or choose another with {option}") from None
        await asyncio.sleep(0.05)


def _family(host: str, port: int) -> socket.AddressFamily:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]


def _reachable(host: str) -> str:
    """Return a host that reaches who listens on *host*."""
    if host in EVERYWHERE:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
