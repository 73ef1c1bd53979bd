"""The controller's connection to the broker: facts come in, desired state and chunks go out.

Rules:
    * Desired state is in the database first; the broker's retained copy follows it. What could not be
      published is published again, and after every new connection everything is.
    * Messages are written in batches: one transaction for whatever came while the last one ran.
    * A lost connection is made again for ever, with a growing pause; while there is none, commands
      are refused and chunks are dropped (devices ask again).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import aiomqtt
from sqlalchemy import select

from controller.broker.interface import Broker, connect
from controller.database.database import Database
from controller.database.schema import DeviceRow
from controller.errors import BrokerError, ServeError
from controller.fleet.ingest import Arrival, ingest
from runtime.errors import ProtocolError
from runtime.logs import get_logger
from runtime.protocol.messages import Assignment, BlobRequest, Command
from runtime.protocol.topics import FROM_DEVICE, Channel, DeviceTopic, FleetTopics

__all__ = ["Bridge"]

log = get_logger("vedette.bridge")

MAX_QUEUED = 10_000  # messages from devices that wait to be written
MAX_BATCH = 500  # messages in one transaction
RECONNECT_MOST = 10.0  # seconds
RETRY = 1.0  # seconds until facts that could not be written are written again


class Bridge:
    """Between the broker and the database."""

    def __init__(
        self,
        *,
        broker: Broker,
        fleet: str,
        database: Database,
        on_facts: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._topics = FleetTopics(fleet)
        self._database = database
        self.on_request: Callable[[Iterable[str]], None] = lambda _digests: None  # who answers for chunks; set once
        self._on_facts = on_facts
        self._client: aiomqtt.Client | None = None
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue(MAX_QUEUED)
        self._stale: set[str] = set()  # devices whose retained desired state may be behind the database
        self._stale_changed = asyncio.Event()
        self.dropped = 0  # messages that were not of the protocol
        self.up = asyncio.Event()

    # --- What others call -----------------------------------------------------------------------

    def desired_changed(self, devices: Iterable[str]) -> None:
        """Publish the desired state of *devices* anew, as the database has it."""
        self._stale.update(devices)
        self._stale_changed.set()

    async def publish_chunk(self, digest: str, payload: bytes) -> None:
        """Publish a chunk to all who wait for it; dropped without a connection."""
        if self._client is None:
            return
        try:
            await self._client.publish(self._topics.blob(digest), payload, qos=0)
        except aiomqtt.MqttError as error:
            log.warning("a chunk was not published", digest=digest, error=str(error))

    async def command(self, device: str, command: Command) -> None:
        """Send *command* to *device*.

        Raises:
            BrokerError: There is no connection to the broker.
        """
        if self._client is None:
            raise BrokerError(f"broker {self._broker.address} is not connected; the command was not sent")
        try:
            await self._client.publish(self._topics.device(device, Channel.COMMAND), command.to_bytes(), qos=1)
        except aiomqtt.MqttError as error:
            raise BrokerError(f"command to {device} was not sent: {error}") from None

    # --- The connection -------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection, and write what comes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_arrivals(), name="bridge: write")
            group.create_task(self._stay_connected(), name="bridge: connection")

    async def _stay_connected(self) -> None:
        pause = 0.2
        while True:
            try:
                await self._session()
            except* (aiomqtt.MqttError, OSError) as group:
                log.warning("broker lost", broker=str(self._broker.address), error=str(group.exceptions[0]))
            pause = 0.2 if self.up.is_set() else min(2 * pause, RECONNECT_MOST)
            self._client = None
            self.up.clear()
            await asyncio.sleep(pause)

    async def _session(self) -> None:
        """Serve one connection until it is lost."""
        session = self._broker.session
        async with connect(self._broker, self._broker.login, identifier=session, clean=session is None) as client:
            for channel in FROM_DEVICE:
                await client.subscribe(self._topics.every_device(channel), qos=1)
            await client.subscribe(self._topics.blob_requests, qos=1)
            self._client = client
            self.desired_changed(await asyncio.to_thread(self._every_device))
            self.up.set()
            log.info("broker connected", broker=str(self._broker.address))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive(client), name="bridge: receive")
                group.create_task(self._publish_desired(client), name="bridge: publish")

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            try:
                if message.topic.value == self._topics.blob_requests:
                    self.on_request(BlobRequest.parse(payload).digests)
                else:
                    topic = DeviceTopic.parse(message.topic.value)
                    await self._arrivals.put(Arrival(topic, payload, message.retain))
            except ProtocolError as error:
                self._drop([f"{message.topic}: {error}"])

    def _drop(self, reasons: list[str]) -> None:
        self.dropped += len(reasons)
        for reason in reasons:
            log.warning("message dropped", reason=reason)

    # --- In -------------------------------------------------------------------------------------

    async def _write_arrivals(self) -> None:
        while True:
            batch = [await self._arrivals.get()]
            while len(batch) < MAX_BATCH and not self._arrivals.empty():
                batch.append(self._arrivals.get_nowait())
            self._drop(await self._write_for_sure(batch))
            self._on_facts()

    async def _write_for_sure(self, batch: list[Arrival]) -> list[str]:
        """Write *batch*, as often as it takes; meanwhile the queue fills up, and the broker keeps the rest."""
        while True:
            try:
                return await asyncio.to_thread(self._write, batch)
            except ServeError as error:
                log.warning("facts cannot be written", waiting=self._arrivals.qsize(), reason=str(error))
                await asyncio.sleep(RETRY)

    def _write(self, batch: list[Arrival]) -> list[str]:
        with self._database.write() as session:
            return ingest(session, batch, datetime.now(UTC))

    # --- Out ------------------------------------------------------------------------------------

    async def _publish_desired(self, client: aiomqtt.Client) -> None:
        while True:
            await self._stale_changed.wait()
            self._stale_changed.clear()
            devices, self._stale = self._stale, set()  # taken before they are read, so that no change is missed
            for device, payload in (await asyncio.to_thread(self._desired, devices)).items():
                await client.publish(self._topics.device(device, Channel.DESIRED), payload, qos=1, retain=True)

    def _every_device(self) -> list[str]:
        with self._database.read() as session:
            return list(session.scalars(select(DeviceRow.id)))

    def _desired(self, devices: set[str]) -> dict[str, bytes]:
        """Return what to publish for *devices*; nothing desired is an empty message, which clears the retained one."""
        with self._database.read() as session:
            rows = session.execute(select(DeviceRow.id, DeviceRow.desired).where(DeviceRow.id.in_(devices)))
            return {
                device: Assignment.model_validate(desired).to_bytes() if desired is not None else b""
                for device, desired in rows
            }
