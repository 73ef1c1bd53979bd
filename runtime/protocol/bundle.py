"""The enrolment bundle: what a device is given once, to find its broker and to be let in.

Rules:
    * A bundle is a secret: it holds the device's password. It is written with mode 0600 and neither
      its `repr` nor an error shows the password.
    * The broker's address is one URL, ``mqtt://host:port`` or ``mqtts://host:port``; nothing else
      (no user, no path) is in it. A CA is only for ``mqtts``.
    * ``schema`` rises when an older agent could no longer read the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from runtime.errors import ProtocolError
from runtime.files import replace_bytes
from runtime.protocol.topics import check_level

__all__ = ["BrokerAddress", "Bundle"]

_MAX_BUNDLE = 65_536  # bytes; a CA chain of a few certificates fits many times
_DEFAULT_PORT = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where the broker listens."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the address that *url* names.

        Raises:
            ProtocolError: It is not ``mqtt://host[:port]`` or ``mqtts://host[:port]``.
        """
        refused = ProtocolError(f"broker {url!r} is not usable: expected mqtt://host:port or mqtts://host:port")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise refused from None
        extra = parts.username is not None or parts.path not in {"", "/"} or parts.query or parts.fragment
        if parts.scheme not in _DEFAULT_PORT or not parts.hostname or extra or port == 0:
            raise refused
        return cls(host=parts.hostname, port=port or _DEFAULT_PORT[parts.scheme], tls=parts.scheme == "mqtts")


def _broker_url(value: str) -> str:
    try:
        return str(BrokerAddress.parse(value))
    except ProtocolError as error:
        raise ValueError(str(error)) from None


def _level(value: str) -> str:
    try:
        return check_level("name", value)
    except ProtocolError as error:
        raise ValueError(str(error)) from None


Level = Annotated[str, AfterValidator(_level)]


def _describe(error: ValidationError) -> str:
    """Return *error* on one line, without the values found: one of them may be the password."""
    causes = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, cause['loc'])) or 'document'}: {cause['msg']}" for cause in causes)


class Bundle(BaseModel):
    """What a device must know to join its fleet."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True, hide_input_in_errors=True)

    bundle_schema: Literal[1] = Field(default=1, alias="schema")
    fleet: Level
    device: Level
    broker: Annotated[str, AfterValidator(_broker_url)]  # normalized: the port is always there
    username: Annotated[str, Field(min_length=1)]
    password: SecretStr
    ca_pem: str | None = None  # PEM certificates that the broker's must chain to; None: the system's
    controller: str | None = None  # base URL of the REST API

    @model_validator(mode="after")
    def _ca_needs_tls(self) -> Self:
        if self.ca_pem is not None and not self.address.tls:
            raise ValueError(f"ca_pem is set, but broker {self.broker} has no TLS; expected mqtts://")
        return self

    @property
    def address(self) -> BrokerAddress:
        """The broker's address, taken apart."""
        return BrokerAddress.parse(self.broker)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the bundle that the JSON *data* says.

        Raises:
            ProtocolError: It is too large, not JSON, or a key is missing or wrong.
        """
        if len(data) > _MAX_BUNDLE:
            raise ProtocolError(f"enrolment bundle has {len(data)} bytes; at most {_MAX_BUNDLE} are read")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ProtocolError(f"enrolment bundle is not valid: {_describe(error)}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the bundle in the file *path*.

        Raises:
            OSError: The file cannot be read.
            ProtocolError: It holds no valid bundle.
        """
        with path.open("rb") as file:
            data = file.read(_MAX_BUNDLE + 1)
        try:
            return cls.parse(data)
        except ProtocolError as error:
            raise ProtocolError(f"{path}: {error}") from None

    def to_bytes(self) -> bytes:
        """Return the bundle as UTF-8 JSON, the password in clear: handle it as the secret it is."""
        document = self.model_dump(mode="json", by_alias=True) | {"password": self.password.get_secret_value()}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write the bundle to *path*, atomically, readable by its owner alone."""
        replace_bytes(path, self.to_bytes(), mode=0o600)
