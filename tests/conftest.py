"""What all tests share: a home of their own, the real data where it is, and a tiny real artifact."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Command, command_line

TEST_DATA = Path(os.environ.get("VEDETTE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty VEDETTE_HOME, for this test alone, and for the processes that it starts."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("VEDETTE_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """Find a real image or model by its path below the test data; skip, saying so, where it is absent."""

    def find(relative: str) -> Path:
        path = TEST_DATA / relative
        if not path.exists():
            pytest.skip(f"no test data: {path} (VEDETTE_TEST_DATA)")
        return path

    return find


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The `vedette` command."""
    return command_line(capsys)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread for torch, here and in processes: the bits depend on it, and waiting threads spin."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
