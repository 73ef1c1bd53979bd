"""The one place where topics are spelled: ``vedette/v1/<fleet>/...``.

Rules:
    * A level that comes from outside (fleet, device) holds ``[A-Za-z0-9_-]`` only, at most 64 of
      them, so that it can be no wildcard, no second level and no NATS subject separator.
    * `parse` and `str` are inverse to each other; a topic that could not be parsed cannot be made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from runtime.errors import ProtocolError

__all__ = ["FROM_DEVICE", "LEVEL", "TO_DEVICE", "BlobTopic", "Channel", "DeviceTopic", "FleetTopics", "check_level"]

LEVEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_level(what: str, text: str) -> str:
    """Return *text* if it may be a topic level.

    Raises:
        ProtocolError: It may not; the text names *what* it was for.
    """
    if not LEVEL.fullmatch(text):
        raise ProtocolError(f"{what} {text!r} is not usable: expected 1 to 64 of A-Z a-z 0-9 _ -")
    return text


class Channel(StrEnum):
    """The last level of a device's topic."""

    STATUS = "status"  # retained, with a last will: online | offline
    REPORTED = "reported"  # retained: messages.Reported
    DESIRED = "desired"  # retained: messages.Assignment
    EVENTS = "events"  # messages.Event, QoS 1
    TELEMETRY = "telemetry"  # messages.Telemetry, QoS 1
    COMMAND = "command"  # messages.Command


FROM_DEVICE = (Channel.STATUS, Channel.REPORTED, Channel.EVENTS, Channel.TELEMETRY)
TO_DEVICE = (Channel.DESIRED, Channel.COMMAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTopic:
    """``vedette/v1/<fleet>/devices/<device>/<channel>``."""

    fleet: str
    device: str
    channel: Channel

    def __post_init__(self) -> None:
        check_level("fleet", self.fleet)
        check_level("device", self.device)

    def __str__(self) -> str:
        return f"vedette/v1/{self.fleet}/devices/{self.device}/{self.channel}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the topic that *text* spells.

        Raises:
            ProtocolError: It is no device topic.
        """
        match text.split("/"):
            case ["vedette", "v1", fleet, "devices", device, channel] if channel in tuple(Channel):
                return cls(fleet=fleet, device=device, channel=Channel(channel))
        raise ProtocolError(f"not a device topic: {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobTopic:
    """``vedette/v1/<fleet>/blobs/<sha256>``: one chunk; an empty payload says that there is none."""

    fleet: str
    sha256: str

    def __post_init__(self) -> None:
        check_level("fleet", self.fleet)
        if not _SHA256.fullmatch(self.sha256):
            raise ProtocolError(f"chunk {self.sha256!r} is not usable: expected a SHA-256 in lowercase hex")

    def __str__(self) -> str:
        return f"vedette/v1/{self.fleet}/blobs/{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the topic that *text* spells.

        Raises:
            ProtocolError: It is no chunk's topic.
        """
        match text.split("/"):
            case ["vedette", "v1", fleet, "blobs", sha256] if _SHA256.fullmatch(sha256):
                return cls(fleet=fleet, sha256=sha256)
        raise ProtocolError(f"not a chunk's topic: {text!r}")


@dataclass(frozen=True, slots=True)
class FleetTopics:
    """The topics of one fleet."""

    fleet: str

    def __post_init__(self) -> None:
        check_level("fleet", self.fleet)

    def device(self, device: str, channel: Channel) -> str:
        """Return the topic of *channel* of *device*."""
        return str(DeviceTopic(fleet=self.fleet, device=device, channel=channel))

    def every_device(self, channel: Channel) -> str:
        """Return the subscription to *channel* of every device."""
        return f"vedette/v1/{self.fleet}/devices/+/{channel}"

    @property
    def blob_requests(self) -> str:
        """Return the topic of `messages.BlobRequest`."""
        return f"vedette/v1/{self.fleet}/blobs/get"

    def blob(self, sha256: str) -> str:
        """Return the topic of the chunk *sha256*."""
        return str(BlobTopic(fleet=self.fleet, sha256=sha256))
