"""What systemd wants to hear from a service of ``Type=notify`` (`sd_notify(3)`), without a library.

Rules:
    * Nothing happens, and nothing fails, where systemd does not ask for it.
    * The watchdog is fed at half its interval at most, and only by a caller who can vouch for the service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

__all__ = ["Notifier"]


class Notifier:
    """The socket in ``NOTIFY_SOCKET``, if there is one."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_us = environment.get("WATCHDOG_USEC", "")
        self._watchdog_pid = environment.get("WATCHDOG_PID", str(os.getpid()))

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two feedings; None if no watchdog waits for us."""
        if not self._watchdog_us.isdigit() or self._watchdog_pid != str(os.getpid()):
            return None
        return int(self._watchdog_us) / 2_000_000

    def ready(self) -> None:
        """The service is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is going down."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def feed_watchdog(self) -> None:
        """The service does its work."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.connect(self._address)
                channel.send(message.encode())
            except OSError:  # systemd went away; the service goes on
                return
