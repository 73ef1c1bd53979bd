"""The enrolment bundle: round trip, refusals, and no password where a password must not be."""

from __future__ import annotations

import json
import stat

import pytest

from runtime.errors import ProtocolError
from runtime.protocol.bundle import BrokerAddress, Bundle

DOCUMENT = {
    "schema": 1,
    "fleet": "lab",
    "device": "cam1",
    "broker": "mqtts://broker.example:8883",
    "username": "cam1",
    "password": "hunter2",
    "ca_pem": "-----BEGIN CERTIFICATE-----",
    "controller": "https://controller.example",
}


def test_round_trip_through_a_file_that_only_the_owner_reads(tmp_path):
    bundle = Bundle.parse(json.dumps(DOCUMENT).encode())
    bundle.write(tmp_path / "bundle.json")
    assert Bundle.read(tmp_path / "bundle.json") == bundle
    assert json.loads((tmp_path / "bundle.json").read_text()) == DOCUMENT
    assert stat.S_IMODE((tmp_path / "bundle.json").stat().st_mode) == 0o600


def test_the_password_is_in_no_repr():
    assert "hunter2" not in repr(Bundle.parse(json.dumps(DOCUMENT).encode()))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fleet": "a/b"}, "fleet"),
        ({"device": "cam.1"}, "device"),
        ({"broker": "http://broker"}, "mqtt://host:port"),
        ({"broker": "mqtt://user@broker"}, "mqtt://host:port"),
        ({"broker": "mqtt://broker:99999"}, "mqtt://host:port"),
        ({"broker": "mqtt://broker:1883"}, "ca_pem"),  # a CA without TLS
        ({"schema": 2}, "schema"),
        ({"username": ""}, "username"),
        ({"password": None}, "password"),
    ],
)
def test_what_is_wrong_is_named_and_the_password_is_not(change, named):
    with pytest.raises(ProtocolError) as caught:
        Bundle.parse(json.dumps(DOCUMENT | change).encode())
    assert named in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"hunter2", b"[]", b"{" * 70_000])
def test_what_is_no_bundle_is_refused(data):
    with pytest.raises(ProtocolError, match="enrolment bundle"):
        Bundle.parse(data)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://localhost", BrokerAddress(host="localhost", port=1883, tls=False)),
        ("mqtts://10.0.0.1", BrokerAddress(host="10.0.0.1", port=8883, tls=True)),
        ("mqtt://[::1]:1999", BrokerAddress(host="::1", port=1999, tls=False)),
    ],
)
def test_broker_urls_round_trip(url, address):
    assert BrokerAddress.parse(url) == address
    assert BrokerAddress.parse(str(address)) == address
