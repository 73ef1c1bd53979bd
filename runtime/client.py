"""A client of the controller's REST API, for the commands of every package and for what serves its queue.

Rules:
    * The controller is the one that ``--controller`` or VEDETTE_CONTROLLER names, else the one that
      runs on the home; the token is VEDETTE_TOKEN, else the home's admin token.
    * The admin token of a home goes only to the controller of that home, or to one named on loopback.
    * What the controller refuses becomes one error with its own words: a wrong call exits with 2.
"""

from __future__ import annotations

import ipaddress
import json
import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from runtime.errors import ApiError, UnreachableError, UsageError
from runtime.home import Home
from runtime.presence import Presence

if TYPE_CHECKING:
    import httpx

__all__ = ["Client"]

TIMEOUT = 30.0  # seconds; enrolling waits for the broker


class Client:
    """A connection to a controller; close it, or use it as a context."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        import httpx

        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=f"{self._url}/api/v1", headers=headers, timeout=TIMEOUT, transport=transport, trust_env=False
        )

    @classmethod
    def find(cls, url: str | None = None) -> Self:
        """Return a client of the controller at *url*, or of the one that runs on the home.

        Raises:
            ApiError: None runs there, or there is no token for it.
            UsageError: *url* is no URL.
        """
        presence = Presence(Home.from_environment())
        given = url or os.environ.get("VEDETTE_CONTROLLER")
        address = _checked(given) if given else _running(presence)
        token = os.environ.get("VEDETTE_TOKEN")
        if token is None and (not given or _is_loopback(address)) and presence.token.exists():
            token = presence.token.read_text().strip()
        if token is None:
            raise ApiError(f"no token for the controller at {address}; set VEDETTE_TOKEN to one of its tokens")
        return cls(address, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return what is at *path*, like ``/devices``; raises as `request`."""
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Any = None) -> Any:
        """Send *body* to *path*; raises as `request`."""
        return self.request("POST", path, body=body)

    def request(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """Return the JSON that the controller answers.

        Raises:
            UsageError: The controller cannot use what was sent.
            UnreachableError: It does not answer.
            ApiError: It refuses.
        """
        import httpx

        try:
            response = self._http.request(method, path, params=query, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"the controller at {self._url} does not answer: {reason}") from None
        if response.is_success:
            return response.json() if response.content else None
        detail = _detail(response)
        raise UsageError(detail) if response.status_code == 422 else ApiError(detail, response.status_code)


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.method} {response.url}: HTTP {response.status_code}"


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"controller {url!r} is not usable: expected a URL like http://127.0.0.1:8420")
    return url


def _running(presence: Presence) -> str:
    try:
        return str(json.loads(presence.path.read_text())["url"])
    except (OSError, ValueError, KeyError):
        raise ApiError(
            f"no controller runs on home {presence.home.root}; start one with `vedette controller serve`, "
            "or name one with --controller URL"
        ) from None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
