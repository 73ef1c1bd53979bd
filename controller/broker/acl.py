"""The one place where permissions on the broker are spelled (DESIGN.md §5, identity).

Rules:
    * A device publishes on its own channels and asks for chunks; it hears its own channels, the
      fleet's TUF metadata and the chunks. It hears no other device, and not what others ask for.
    * Permissions are MQTT topic filters here; brokers get them rendered: `subjects` for NATS,
      `mosquitto_acl` for Mosquitto, from the same two functions.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.protocol.topics import FROM_DEVICE, TO_DEVICE, FleetTopics, check_level

__all__ = ["Permissions", "controller_permissions", "device_permissions", "mosquitto_acl", "subjects", "to_subject"]

_DEVICE_PLACE = "DEVICE"  # a legal level that stands for Mosquitto's %u while filters are built
NATS_INTERNAL = ("$MQTT.sub.>", "$MQTT.deliver.pubrel.>")
"""What nats-server's MQTT layer itself subscribes to in a user's name for QoS 1 and 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What one user may do, as MQTT topic filters; *deny* takes away from *subscribe*."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny: tuple[str, ...] = ()


def device_permissions(fleet: str, device: str) -> Permissions:
    """Return what *device* may do.

    Raises:
        ProtocolError: *fleet* or *device* cannot be a topic level.
    """
    topics = FleetTopics(fleet)
    root = f"vedette/v1/{fleet}"
    return Permissions(
        publish=(*(topics.device(device, channel) for channel in FROM_DEVICE), topics.blob_requests),
        subscribe=(*(topics.device(device, channel) for channel in TO_DEVICE), f"{root}/tuf/+", f"{root}/blobs/+"),
        deny=(topics.blob_requests,),
    )


def controller_permissions(fleet: str) -> Permissions:
    """Return what the controller may do: everything in its fleet, nothing outside."""
    everything = f"vedette/v1/{check_level('fleet', fleet)}/#"
    return Permissions(publish=(everything,), subscribe=(everything,))


def to_subject(topic_filter: str) -> str:
    """Return the NATS subject of an MQTT topic filter; the levels of our topics hold no separator of NATS."""
    return topic_filter.replace("/", ".").replace("+", "*").replace("#", ">")


def subjects(permissions: Permissions) -> dict[str, dict[str, list[str]]]:
    """Return *permissions* as a nats-server ``permissions`` block."""
    return {
        "publish": {"allow": [to_subject(topic) for topic in permissions.publish]},
        "subscribe": {
            "allow": [*(to_subject(topic) for topic in permissions.subscribe), *NATS_INTERNAL],
            "deny": [to_subject(topic) for topic in permissions.deny],
        },
    }


def mosquitto_acl(fleet: str, controller: str) -> str:
    """Return the whole ACL file for Mosquitto: one pattern for all devices, and the user *controller*.

    A ``pattern deny`` of Mosquitto binds every user, the controller too, so *deny* is not rendered:
    ``blobs/+`` lets a device also hear which chunks others ask for. They carry no secret.
    """
    everything = controller_permissions(fleet)
    device = device_permissions(fleet, _DEVICE_PLACE)
    lines = ["# Written by Vedette from controller/broker/acl.py; %u is the user name, which is the device's id."]
    lines += [f"pattern write {_with_user(topic)}" for topic in device.publish]
    lines += [f"pattern read {_with_user(topic)}" for topic in device.subscribe]
    lines += ["", f"user {controller}", *(f"topic readwrite {topic}" for topic in everything.publish)]
    return "\n".join(lines) + "\n"


def _with_user(topic: str) -> str:
    return topic.replace(f"/{_DEVICE_PLACE}/", "/%u/")
