"""What the rest of the agent knows of the broker: one small interface.

`edge_agent.connection` implements it over MQTT, the unit tests in memory.

Rules:
    * A subscription lives no longer than its connection: whoever listens when it is lost gets
      `DisconnectedError` and subscribes anew once `connected` returns.
    * Nothing is queued for a broker that is away; what must not be lost goes through the spool.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Bus", "Inbox", "Incoming"]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that came in."""

    topic: str
    payload: bytes


class Inbox(Protocol):
    """What arrives on the topics of one subscription."""

    async def get(self) -> Incoming:
        """Return the next message.

        Raises:
            DisconnectedError: The connection was lost; so is the subscription.
        """
        ...


class Bus(Protocol):
    """The broker."""

    async def connected(self) -> None:
        """Return once there is a connection, however long that takes."""
        ...

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Send a message; with QoS 1 return once the broker has it.

        Raises:
            DisconnectedError: There is no connection, or it was lost before the broker answered.
        """
        ...

    def listen(self, topics: Sequence[str]) -> AbstractAsyncContextManager[Inbox]:
        """Return a context within which the exact *topics* are subscribed (QoS 0).

        Raises:
            DisconnectedError: There is no connection.
        """
        ...
