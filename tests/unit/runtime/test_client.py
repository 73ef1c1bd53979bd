from __future__ import annotations

import json

import httpx
import pytest

from runtime.client import Client
from runtime.errors import ApiError, UsageError
from runtime.home import Home
from runtime.presence import Presence


def answering(status, content, seen=None):
    def handle(request):
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, content=content, request=request)

    return Client("http://controller", "secret", httpx.MockTransport(handle))


def announce(home, url, token="from-home"):
    presence = Presence(Home(home))
    presence.path.parent.mkdir(parents=True)
    presence.path.write_text(json.dumps({"url": url}))
    presence.token.write_text(f"{token}\n")


def authorization(client):
    with client as opened:
        return opened._url, opened._http.headers["authorization"]


def test_a_request_carries_the_token_and_goes_to_the_api():
    seen = []
    with answering(200, b'[{"id": "cam1"}]', seen) as client:
        assert client.get("/devices", target="all") == [{"id": "cam1"}]
    assert str(seen[0].url) == "http://controller/api/v1/devices?target=all"
    assert seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("status", "content", "kind", "said"),
    [
        (409, b'{"detail": "rollout r1 is paused"}', ApiError, "rollout r1 is paused"),
        (422, b'{"detail": "waves are wrong"}', UsageError, "waves are wrong"),
        (500, b"<html>", ApiError, "HTTP 500"),
        (502, b"[]", ApiError, "HTTP 502"),
    ],
)
def test_a_refusal_is_one_error_in_the_controllers_words(status, content, kind, said):
    with answering(status, content) as client, pytest.raises(kind, match=said):
        client.post("/rollouts", {})


def test_no_content_is_no_value():
    with answering(204, b"") as client:
        assert client.request("DELETE", "/tokens/x") is None


def test_a_controller_that_does_not_answer_is_named():
    def refuse(request):
        raise httpx.ConnectError("Connection refused", request=request)

    said = "controller at http://controller does not answer: Connection refused"
    with Client("http://controller", "x", httpx.MockTransport(refuse)) as client, pytest.raises(ApiError, match=said):
        client.get("/devices")


def test_the_homes_own_controller_is_found_with_its_token(home):
    announce(home, "http://127.0.0.1:7")
    assert authorization(Client.find()) == ("http://127.0.0.1:7", "Bearer from-home")


def test_options_and_environment_come_first(home, monkeypatch):
    announce(home, "http://127.0.0.1:7")
    monkeypatch.setenv("VEDETTE_CONTROLLER", "http://lab:1")
    monkeypatch.setenv("VEDETTE_TOKEN", "mine")
    assert authorization(Client.find()) == ("http://lab:1", "Bearer mine")
    assert authorization(Client.find("http://other:2"))[0] == "http://other:2"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_the_homes_token_goes_to_loopback(home, url):
    announce(home, "http://127.0.0.1:7")
    assert authorization(Client.find(url))[1] == "Bearer from-home"


@pytest.mark.parametrize("url", ["http://lab:9", "http://127.0.0.1.example.org:9", "http://10.0.0.1:9"])
def test_the_homes_token_goes_nowhere_else(home, url):
    announce(home, "http://127.0.0.1:7")
    with pytest.raises(ApiError, match="no token"):
        Client.find(url)


def test_without_a_controller_the_error_says_how_to_start_one(home):
    with pytest.raises(
        ApiError, match=rf"no controller runs on home {home}; start one with `vedette controller serve`"
    ):
        Client.find()


@pytest.mark.parametrize("url", ["lab:8420", "mqtt://lab", "/path", "http://"])
def test_what_is_no_url_is_a_wrong_call(home, url):
    with pytest.raises(UsageError, match=r"controller .* is not usable"):
        Client.find(url)
