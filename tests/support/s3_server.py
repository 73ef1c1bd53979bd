"""A real S3 server (moto), and a proxy before it that fails requests by a plan."""

from __future__ import annotations

import http.client
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, get_args

Fault = Literal["500", "503", "429", "409", "drop", "lost", "cut", "hang"]
"""An answer; a connection dropped before or after the request was done; half a body; no answer in time."""

FAULTS: tuple[Fault, ...] = get_args(Fault)
HANG = 2.0  # seconds; then the connection is dropped
BUCKET = "bucket"
Plan = Callable[[str, str], Fault | None]  # of method and path


def environment(port: int) -> dict[str, str]:
    """Return what a client's environment says of the server at *port*."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def s3_server() -> Iterator[int]:
    """Run the server, with one empty bucket; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None
            assert time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.05)
        make_bucket(port, BUCKET)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/").close()
    except OSError:
        return False
    return True


def make_bucket(port: int, name: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")).close()


def first(number: int, fault: Fault, *, of: Callable[[str, str], bool] = lambda _m, _p: True) -> Plan:
    """Fail the first *number* requests *of* a kind."""
    lock, left = threading.Lock(), [number]

    def plan(method: str, path: str) -> Fault | None:
        with lock:
            if not of(method, path) or left[0] == 0:
                return None
            left[0] -= 1
            return fault

    return plan


def seeded(seed: int, share: float, faults: tuple[Fault, ...] = FAULTS) -> Plan:
    """Fail a *share* of all requests, the same for the same *seed* and order of requests."""
    lock, chooser = threading.Lock(), random.Random(seed)

    def plan(_method: str, _path: str) -> Fault | None:
        with lock:
            return chooser.choice(faults) if chooser.random() < share else None

    return plan


@dataclass
class Proxy:
    """What a running proxy saw."""

    port: int
    plan: Plan = lambda _method, _path: None
    seen: list[tuple[str, str, Fault | None]] = field(default_factory=list)
    at_a_time: int = 0
    most_at_a_time: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def count(self, method: str, part: str = "") -> int:
        """Return how many requests of *method* there were whose path has *part*."""
        return sum(one == method and part in path for one, path, _ in self.seen)

    @property
    def faults(self) -> int:
        return sum(fault is not None for *_, fault in self.seen)


@contextmanager
def faulty(target: int) -> Iterator[Proxy]:
    """Run a proxy before the server at port *target*; it fails nothing until it gets a plan."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.target, server.proxy = target, Proxy(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    target: int
    proxy: Proxy

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that are dropped are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.plan(self.command, self.path)
        with proxy.lock:
            proxy.seen.append((self.command, self.path, fault))
            proxy.at_a_time += 1
            proxy.most_at_a_time = max(proxy.most_at_a_time, proxy.at_a_time)
        try:
            self._fail(fault, body) if fault else self._answer(*self._forward(body))
        finally:
            with proxy.lock:
                proxy.at_a_time -= 1

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the names that the base class calls

    def _fail(self, fault: Fault, body: bytes) -> None:
        if fault.isdecimal():
            code = {"500": "InternalError", "503": "SlowDown", "429": "TooMany", "409": "ConditionalRequestConflict"}
            self._answer(int(fault), [], f"<Error><Code>{code[fault]}</Code></Error>".encode())
            return
        self.close_connection = True
        if fault == "hang":
            time.sleep(HANG)
        elif fault == "lost":
            self._forward(body)
        elif fault == "cut":
            status, headers, content = self._forward(body)
            self._answer(status, headers, content, cut=True)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.target)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        given = {name.lower(): value for name, value in headers}
        if self.command != "HEAD":
            given["content-length"] = str(len(content))
        for name, value in given.items():
            if name not in {"connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
