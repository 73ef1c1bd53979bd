"""A real PostgreSQL for the tests that need one: in a directory of its own, on a socket, without a port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["postgres_url"]

FALLBACK = "nobody"  # who runs it for root, whom PostgreSQL refuses


@contextmanager
def postgres_url() -> Iterator[str]:
    """Run a server, and yield the URL of its database; skip, saying so, where PostgreSQL is not installed."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("no PostgreSQL here: initdb and pg_ctl are not on the PATH")
    user = FALLBACK if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="vedette-pg-") as name:  # short: a socket's path has a limit
        root = Path(name)
        if user is not None:
            shutil.chown(root, user)
        data = root / "data"

        def run(*command: str) -> None:
            done = subprocess.run(command, user=user, cwd=root, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

        run("initdb", "--pgdata", str(data), "--username", "vedette", "--auth", "trust", "--no-sync")
        settings = f"-c listen_addresses= -c unix_socket_directories={root} -c fsync=off"
        run("pg_ctl", "--pgdata", str(data), "--wait", "--log", str(root / "log"), "--options", settings, "start")
        try:
            yield f"postgresql+psycopg://vedette@/postgres?host={root}"
        finally:
            run("pg_ctl", "--pgdata", str(data), "--mode", "immediate", "stop")
