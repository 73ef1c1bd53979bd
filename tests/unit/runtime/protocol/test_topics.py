"""Topics are spelled in one place, and what is no topic level cannot become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ProtocolError
from runtime.protocol.topics import FROM_DEVICE, TO_DEVICE, BlobTopic, Channel, DeviceTopic, FleetTopics, check_level

levels = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
BAD_LEVELS = ["", "a/b", "+", "#", "a.b", "a b", "é", "a\n", "x" * 65, "$SYS", "*", ">"]


@given(levels, levels, st.sampled_from(Channel))
def test_a_device_topic_comes_back(fleet: str, device: str, channel: Channel) -> None:
    topic = DeviceTopic(fleet=fleet, device=device, channel=channel)
    assert DeviceTopic.parse(str(topic)) == topic
    assert str(topic) == FleetTopics(fleet).device(device, channel)
    assert str(topic).split("/") == ["vedette", "v1", fleet, "devices", device, channel.value]


@given(levels, digests)
def test_a_chunks_topic_comes_back(fleet: str, sha256: str) -> None:
    topic = BlobTopic(fleet=fleet, sha256=sha256)
    assert BlobTopic.parse(str(topic)) == topic
    assert str(topic) == FleetTopics(fleet).blob(sha256)


@given(st.one_of(st.text(max_size=80), st.lists(levels, max_size=7).map("/".join)))
def test_what_parses_is_spelled_the_same(text: str) -> None:
    for kind in (DeviceTopic, BlobTopic):
        try:
            topic = kind.parse(text)
        except ProtocolError as error:
            assert repr(text) in str(error)  # noqa: PT017 - both outcomes are right
        else:
            assert str(topic) == text


@pytest.mark.parametrize("level", BAD_LEVELS)
def test_a_wildcard_or_a_second_level_is_no_level(level: str) -> None:
    for make in (
        lambda: check_level("device", level),
        lambda: FleetTopics(level),
        lambda: FleetTopics("lab").device(level, Channel.STATUS),
        lambda: DeviceTopic(fleet=level, device="cam", channel=Channel.STATUS),
        lambda: BlobTopic(fleet=level, sha256="0" * 64),
    ):
        with pytest.raises(ProtocolError, match="is not usable: expected 1 to 64"):
            make()


@pytest.mark.parametrize(
    "text",
    [
        "vedette/v1/lab/devices/cam",
        "vedette/v1/lab/devices/cam/status/x",
        "vedette/v2/lab/devices/cam/status",
        "vedette/v1/lab/devices/cam/secrets",
        "vedette/v1/lab/devices/cam/STATUS",
        "/vedette/v1/lab/devices/cam/status",
        "vedette/v1/lab/blobs/get",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="not a device topic"):
        DeviceTopic.parse(text)


@pytest.mark.parametrize("sha256", ["get", "0" * 63, "G" * 64, "A" * 64, "#"])
def test_only_a_digest_names_a_chunk(sha256: str) -> None:
    with pytest.raises(ProtocolError, match="not a chunk's topic"):
        BlobTopic.parse(f"vedette/v1/lab/blobs/{sha256}")
    with pytest.raises(ProtocolError, match="expected a SHA-256"):
        FleetTopics("lab").blob(sha256)


def test_every_channel_has_one_direction() -> None:
    assert sorted([*FROM_DEVICE, *TO_DEVICE]) == sorted(Channel)


def test_subscriptions_are_the_topics_with_a_wildcard() -> None:
    topics = FleetTopics("lab")
    assert topics.every_device(Channel.STATUS) == "vedette/v1/lab/devices/+/status"
    assert topics.blob_requests == "vedette/v1/lab/blobs/get"
