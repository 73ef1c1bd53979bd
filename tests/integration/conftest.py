"""What integration tests share: an S3 server behind a proxy that can fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import Proxy, environment, faulty, s3_server


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A real S3 server."""
    with s3_server() as port:
        yield port


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of it, which the environment names as the endpoint."""
    with faulty(s3_port) as running:
        for name, value in environment(running.port).items():
            monkeypatch.setenv(name, value)
        yield running
