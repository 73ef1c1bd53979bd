"""The connection's own rules, with a client that behaves like aiomqtt at its worst."""

from __future__ import annotations

import asyncio

import aiomqtt
import pytest

import edge_agent.connection
from edge_agent.config import Settings
from edge_agent.connection import Connection, client_for
from edge_agent.errors import AgentError, DisconnectedError
from runtime.protocol.bundle import Bundle
from runtime.protocol.topics import Channel

BUNDLE = Bundle(fleet="lab", device="cam1", broker="mqtt://127.0.0.1:1", username="cam1", password="p")
STATUS = "vedette/v1/lab/devices/cam1/status"


class Client:
    """Takes everything; what swallows cancellations says so."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str]] = []
        self.timeout = 10.0
        self.refuses = 0
        self.swallow_publish = self.swallow_exit = False
        self.incoming: asyncio.Queue = asyncio.Queue()

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, error, trace):
        if self.swallow_exit:
            raise aiomqtt.MqttError("Operation timed out")

    async def subscribe(self, topics):
        return [0x80 if number < self.refuses else 0 for number, _ in enumerate(topics)]

    async def unsubscribe(self, topics, **named):
        assert topics
        assert named["timeout"] < 5

    async def publish(self, topic, payload, **_):
        self.published.append((topic, str(payload)))
        if self.swallow_publish and topic != STATUS:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                return  # what `asyncio.wait_for` of Python 3.11 does when the answer is there too

    @property
    async def messages(self):
        while True:
            message = await self.incoming.get()
            if message is None:
                raise aiomqtt.MqttError("Disconnected during message iteration")
            yield message


@pytest.fixture
def client(monkeypatch):
    client = Client()
    monkeypatch.setattr(edge_agent.connection, "client_for", lambda *_, **__: client)
    return client


@pytest.fixture
def received():
    return []


@pytest.fixture
async def connection(client, received):
    settings = Settings(reconnect_delay=0.01, reconnect_delay_most=0.02)
    connection = Connection(BUNDLE, settings, received=lambda *message: received.append(message), changed=lambda: None)
    task = asyncio.create_task(connection.run())
    connection.task = task
    yield connection
    task.cancel()
    await asyncio.wait([task], timeout=2)
    assert task.cancelled()  # whatever the client did


async def test_a_cancellation_that_the_library_swallows_is_not_lost(connection, client):
    await connection.connected()
    client.swallow_publish = True

    async def loop() -> None:
        while True:
            await connection.publish("topic", b"")

    task = asyncio.create_task(loop())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


async def test_a_stop_whose_disconnect_times_out_is_a_stop(connection, client):
    client.swallow_exit = True
    await connection.connected()
    connection.task.cancel()
    await asyncio.wait([connection.task], timeout=1)
    assert connection.task.cancelled()
    assert client.published == [(STATUS, "online"), (STATUS, "offline")]


async def test_who_listens_when_the_connection_is_lost_is_told(connection, client):
    await connection.connected()
    async with connection.listen(["a", "b"]) as inbox:
        client.incoming.put_nowait(None)
        with pytest.raises(DisconnectedError):
            await inbox.get()
    await connection.connected()  # it came back
    assert client.published.count((STATUS, "online")) == 2


async def test_a_refused_subscription_is_named_and_tried_again(connection, client):
    await connection.connected()
    client.refuses = 1
    client.incoming.put_nowait(None)
    await asyncio.sleep(0.1)
    assert not connection.is_connected
    client.refuses = 0
    await connection.connected()
    client.refuses = 1
    with pytest.raises(AgentError, match="refuses 'cam1' the subscription to blob"):
        async with connection.listen(["blob"]):
            pass


async def test_without_a_connection_nothing_is_queued():
    connection = Connection(BUNDLE, Settings(), received=lambda *_: None, changed=lambda: None)
    with pytest.raises(DisconnectedError):
        await connection.publish("topic", b"")
    with pytest.raises(DisconnectedError):
        async with connection.listen(["topic"]):
            pass


async def test_messages_go_where_they_belong(connection, client, received):
    await connection.connected()
    async with connection.listen(["blob"]) as inbox:
        for topic in ("vedette/v1/lab/devices/cam1/desired", "elsewhere", "blob"):
            client.incoming.put_nowait(aiomqtt.Message(topic, topic.encode(), 0, False, 1, None))
        assert (await asyncio.wait_for(inbox.get(), 1)).payload == b"blob"
    assert received == [(Channel.DESIRED, b"vedette/v1/lab/devices/cam1/desired")]


def test_attempts_are_later_each_time_with_jitter_up_to_a_bound():
    settings = Settings(reconnect_delay=1, reconnect_delay_most=60)
    connection = Connection(BUNDLE, settings, received=lambda *_: None, changed=lambda: None)
    for attempt, longest in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        delays = {connection._delay(attempt) for _ in range(50)}
        assert all(longest / 2 <= delay <= longest for delay in delays)
        assert len(delays) > 10


async def test_a_ca_that_is_no_certificate_is_one_clear_error():
    bundle = BUNDLE.model_copy(update={"broker": "mqtts://127.0.0.1:1", "ca_pem": "nonsense"})
    with pytest.raises(AgentError, match="ca_pem of the enrolment bundle is no certificate"):
        client_for(bundle)
