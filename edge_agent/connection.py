"""The connection to the broker: MQTT 3.1.1 through aiomqtt, kept up for as long as the agent runs.

Rules:
    * `online` is retained on the status topic once the device's subscriptions stand; the last will,
      and a clean stop, put `offline` there.
    * A lost or refused connection is one line in the log and a new attempt, later each time, with
      jitter: a fleet must not come back in one moment.
    * Nothing is queued in here; see `edge_agent.bus`.
    * A cancellation is never lost, whatever the library makes of it: a stop must not hang.
    * TLS trusts the bundle's CA if it names one, else the system's, and always checks the host name.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.bus import Incoming
from edge_agent.config import Settings
from edge_agent.errors import AgentError, DisconnectedError
from runtime.logs import get_logger
from runtime.protocol.bundle import Bundle
from runtime.protocol.messages import Status
from runtime.protocol.topics import TO_DEVICE, Channel, FleetTopics

__all__ = ["Connection", "client_for"]

_log = get_logger("vedette.agent.connection")
_ANSWER = 15.0  # seconds for the broker to answer
_FAREWELL = 1.0  # seconds for the broker to take `offline` and the disconnect at a clean stop
_KEEPALIVE = 30  # seconds
_INCOMING = 256  # messages that may wait to be looked at
_REFUSED = 0x80  # MQTT 3.1.1, 3.9.3: a failed subscription


def client_for(bundle: Bundle, *, will: aiomqtt.Will | None = None, timeout: float = _ANSWER) -> aiomqtt.Client:
    """Return an MQTT client for the device of *bundle*, not connected yet.

    Raises:
        AgentError: The bundle's CA is no certificate.
    """
    context = None
    if bundle.address.tls:
        try:
            context = ssl.create_default_context(cadata=bundle.ca_pem)
        except ssl.SSLError as error:
            raise AgentError(f"ca_pem of the enrolment bundle is no certificate: {error}; enrol again") from None
    return aiomqtt.Client(
        bundle.address.host,
        bundle.address.port,
        identifier=bundle.device,
        username=bundle.username,
        password=bundle.password.get_secret_value(),
        protocol=aiomqtt.ProtocolVersion.V311,
        will=will,
        keepalive=_KEEPALIVE,
        tls_context=context,
        timeout=timeout,
        max_queued_incoming_messages=_INCOMING,
    )


T = TypeVar("T")


async def _cancellable(awaitable: Awaitable[T]) -> T:
    """Return what *awaitable* gives, unless this task was cancelled meanwhile.

    aiomqtt waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes
    together with the answer (python/cpython#86296), and it turns one that comes while it disconnects
    into a timeout.

    Raises:
        asyncio.CancelledError: A cancellation was asked for and got lost.
    """
    try:
        return await awaitable
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


class _Inbox:
    """Messages of one subscription; None in the queue says that the connection is lost."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Incoming | None] = asyncio.Queue(maxsize=_INCOMING)

    def put(self, message: Incoming | None) -> None:
        if message is None and self.queue.full():
            self.queue.get_nowait()  # the end must get in
        with suppress(asyncio.QueueFull):  # QoS 0: it will be asked for again
            self.queue.put_nowait(message)

    async def get(self) -> Incoming:
        message = await self.queue.get()
        if message is None:
            raise DisconnectedError("the connection to the broker was lost")
        return message


class Connection:
    """The broker, as `edge_agent.bus.Bus` has it.

    Args:
        bundle: Who we are, and where the broker is.
        settings: How long to wait between attempts.
        received: Called with what comes on the device's own topics.
        changed: Called after each connect and each loss.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        *,
        received: Callable[[Channel, bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self._bundle = bundle
        self._settings = settings
        self._received = received
        self._changed = changed
        self._topics = FleetTopics(bundle.fleet)
        self._own = {self._topics.device(bundle.device, channel): channel for channel in TO_DEVICE}
        self._status = self._topics.device(bundle.device, Channel.STATUS)
        self._client: aiomqtt.Client | None = None  # while connected
        self._was_connected = False  # in the attempt under way
        self._connected = asyncio.Event()
        self._inboxes: dict[str, _Inbox] = {}

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client is not None

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        attempt = 0
        while True:
            will = aiomqtt.Will(self._status, Status.OFFLINE, qos=1, retain=True)
            client = client_for(self._bundle, will=will)
            reason = "it closed the connection"
            try:
                await _cancellable(self._stay(client))
            except (aiomqtt.MqttError, AgentError) as error:
                reason = str(error)
            attempt = 0 if self._was_connected else attempt
            delay = self._delay(attempt)
            _log.warning("broker not reached", broker=self._bundle.broker, reason=reason, next_attempt_s=delay)
            attempt += 1
            await asyncio.sleep(delay)

    async def connected(self) -> None:
        """Return once there is a connection."""
        await self._connected.wait()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Send a message; see `Bus.publish`."""
        client = self._require()
        try:
            await _cancellable(client.publish(topic, payload, qos=qos, retain=retain))
        except aiomqtt.MqttError as error:
            raise DisconnectedError(f"{topic} was not taken by the broker: {error}") from None

    @asynccontextmanager
    async def listen(self, topics: Sequence[str]) -> AsyncIterator[_Inbox]:
        """Subscribe *topics* for a while; see `Bus.listen`.

        Raises:
            DisconnectedError: There is no connection.
            AgentError: The broker refuses the subscription.
        """
        client = self._require()
        inbox = _Inbox()
        self._inboxes |= dict.fromkeys(topics, inbox)
        try:
            try:
                await self._subscribe(client, topics, qos=0)
            except aiomqtt.MqttError as error:
                raise DisconnectedError(f"subscription failed: {error}") from None
            yield inbox
        finally:
            for topic in topics:
                self._inboxes.pop(topic, None)
            if self._client is client:
                with suppress(aiomqtt.MqttError):
                    await _cancellable(client.unsubscribe(list(topics), timeout=_FAREWELL))

    async def _stay(self, client: aiomqtt.Client) -> None:
        """Connect, and serve the connection until it is lost."""
        self._was_connected = False
        async with client:
            await self._serve(client)

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Announce the device and hand out what comes, until the connection is lost."""
        try:
            await self._subscribe(client, list(self._own), qos=1)
            await _cancellable(client.publish(self._status, Status.ONLINE, qos=1, retain=True))
            self._client, self._was_connected = client, True
            self._connected.set()
            _log.info("connected", broker=self._bundle.broker, device=self._bundle.device)
            self._changed()
            async for message in client.messages:
                self._dispatch(str(message.topic), bytes(message.payload))
        except asyncio.CancelledError:
            await self._farewell(client)
            raise
        finally:
            self._client = None
            self._connected.clear()
            for inbox in set(self._inboxes.values()):
                inbox.put(None)
            self._changed()

    async def _farewell(self, client: aiomqtt.Client) -> None:
        client.timeout = _FAREWELL
        with suppress(aiomqtt.MqttError):
            await client.publish(self._status, Status.OFFLINE, qos=1, retain=True)

    def _dispatch(self, topic: str, payload: bytes) -> None:
        if channel := self._own.get(topic):
            self._received(channel, payload)
        elif inbox := self._inboxes.get(topic):
            inbox.put(Incoming(topic, payload))

    async def _subscribe(self, client: aiomqtt.Client, topics: Sequence[str], *, qos: int) -> None:
        answers = await _cancellable(client.subscribe([(topic, qos) for topic in topics]))
        for topic, answer in zip(topics, answers, strict=True):
            code = answer if isinstance(answer, int) else cast("ReasonCode", answer).value
            if code >= _REFUSED:
                raise AgentError(f"the broker refuses {self._bundle.username!r} the subscription to {topic}")

    def _require(self) -> aiomqtt.Client:
        if self._client is None:
            raise DisconnectedError("there is no connection to the broker")
        return self._client

    def _delay(self, attempt: int) -> float:
        longest = min(self._settings.reconnect_delay * 2.0**attempt, self._settings.reconnect_delay_most)
        return round(longest * random.uniform(0.5, 1.0), 2)  # noqa: S311 - jitter is no secret
