"""What the controller asks of a broker, whichever it is."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import aiomqtt

from controller.broker.credentials import Credential, Login
from runtime.protocol.bundle import BrokerAddress

__all__ = ["Broker", "connect", "tls_context"]


class Broker(AbstractAsyncContextManager["Broker"], Protocol):
    """A broker that is up while the context is open."""

    address: BrokerAddress  # where the controller reaches it
    advertised: BrokerAddress  # where devices reach it
    login: Login  # the controller's own
    session: str | None  # MQTT client identifier of the controller's lasting session; None: it keeps none
    ca_pem: str | None  # certificates that the broker's must chain to; None: the system's

    async def wait(self) -> None:
        """Return never; raise BrokerError when the broker is found dead."""

    async def admit(self, devices: Sequence[Credential], *, probe: Login | None = None) -> None:
        """Let exactly *devices* in from now on, and wait until *probe*, one of them, really can log in.

        Raises:
            BrokerError: The broker did not take the new list.
        """


def tls_context(address: BrokerAddress, ca_pem: str | None) -> ssl.SSLContext | None:
    """Return what TLS to *address* needs; ``None`` if it has none."""
    return ssl.create_default_context(cadata=ca_pem) if address.tls else None


def connect(
    broker: Broker, login: Login, *, identifier: str | None = None, clean: bool = True, patience: float = 10.0
) -> aiomqtt.Client:
    """Return a client of *broker* for *login*, not connected yet.

    Args:
        broker: To connect to.
        login: User name and password.
        identifier: MQTT client identifier; random if ``None``.
        patience: Seconds that the broker has for each answer.
        clean: ``False`` keeps the session, so that QoS 1 messages wait for the client while it is away.
    """
    return aiomqtt.Client(
        broker.address.host,
        broker.address.port,
        username=login.username,
        password=login.password,
        identifier=identifier,
        clean_session=clean,
        tls_context=tls_context(broker.address, broker.ca_pem),
        timeout=patience,
        keepalive=30,
    )
