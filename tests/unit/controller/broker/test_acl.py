from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.broker.acl import controller_permissions, device_permissions, mosquitto_acl, subjects, to_subject
from controller.broker.mosquitto import CONTROLLER
from runtime.errors import ProtocolError
from runtime.protocol.topics import FROM_DEVICE, TO_DEVICE, Channel, FleetTopics

TOPICS = FleetTopics("lab")
levels = st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z")


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 3.1.1, 4.7, as far as our filters go."""
    wanted, found = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        return found[: len(wanted) - 1] == wanted[:-1]
    return len(wanted) == len(found) and all(w in {"+", f} for w, f in zip(wanted, found, strict=True))


def may(filters, topic):
    return any(matches(one, topic) for one in filters)


@given(device=levels, other=levels)
def test_a_device_says_its_own_channels_and_no_other_devices(device, other):
    allowed = device_permissions("lab", device).publish
    for channel in Channel:
        assert may(allowed, TOPICS.device(device, channel)) == (channel in FROM_DEVICE)
        if other != device:
            assert not may(allowed, TOPICS.device(other, channel))
    assert may(allowed, TOPICS.blob_requests)
    assert not may(allowed, TOPICS.blob("0" * 64))


@given(device=levels, other=levels)
def test_a_device_hears_its_own_channels_and_no_other_devices(device, other):
    permissions = device_permissions("lab", device)
    for channel in Channel:
        assert may(permissions.subscribe, TOPICS.device(device, channel)) == (channel in TO_DEVICE)
        if other != device:
            assert not may(permissions.subscribe, TOPICS.device(other, channel))
    assert may(permissions.subscribe, TOPICS.blob("0" * 64))
    assert may(permissions.subscribe, "vedette/v1/lab/tuf/root")
    assert may(permissions.deny, TOPICS.blob_requests)


def test_the_controller_has_its_fleet_and_no_other():
    permissions = controller_permissions("lab")
    assert may(permissions.subscribe, TOPICS.device("cam1", Channel.STATUS))
    assert not may(permissions.subscribe, FleetTopics("other").device("cam1", Channel.STATUS))


@pytest.mark.parametrize("device", ["", "a/b", "+", "#", "a.b", "a b", "x" * 65, "*", ">"])
def test_an_id_that_could_be_a_wildcard_or_a_second_level_gets_no_permissions(device):
    with pytest.raises(ProtocolError):
        device_permissions("lab", device)


def test_nats_subjects_say_the_same_as_the_topic_filters():
    rendered = subjects(device_permissions("lab", "cam1"))
    assert rendered["publish"]["allow"] == [
        *(f"vedette.v1.lab.devices.cam1.{channel}" for channel in FROM_DEVICE),
        "vedette.v1.lab.blobs.get",
    ]
    assert "vedette.v1.lab.blobs.*" in rendered["subscribe"]["allow"]
    assert rendered["subscribe"]["deny"] == ["vedette.v1.lab.blobs.get"]
    assert to_subject("vedette/v1/lab/#") == "vedette.v1.lab.>"


def test_mosquittos_patterns_are_the_device_permissions_with_the_user_name_in_place():
    lines = mosquitto_acl("lab", "ctl").splitlines()
    permissions = device_permissions("lab", "cam1")
    granted = {line.replace("%u", "cam1") for line in lines if line.startswith("pattern")}
    assert granted == {f"pattern write {topic}" for topic in permissions.publish} | {
        f"pattern read {topic}" for topic in permissions.subscribe
    }
    assert lines[-2:] == ["user ctl", "topic readwrite vedette/v1/lab/#"]


def test_infras_acl_is_what_the_controller_writes():
    shipped = Path(__file__).parents[4] / "infra" / "mosquitto" / "acl"
    assert shipped.read_text() == mosquitto_acl("lab", CONTROLLER)
