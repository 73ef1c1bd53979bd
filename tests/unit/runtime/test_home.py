"""Where state lives."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from runtime.home import Home


def test_everything_lies_below_what_the_environment_names(home: Path) -> None:
    found = Home.from_environment()
    assert found.root == home
    assert {found.store.parent, found.cache.parent, found.controller.parent} == {home}


def test_a_relative_home_is_made_absolute_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VEDETTE_HOME", "state")
    assert Home.from_environment().root == tmp_path / "state"


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_is_the_platforms(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("VEDETTE_HOME")
    else:
        monkeypatch.setenv("VEDETTE_HOME", value)
    assert Home.from_environment().root == platformdirs.user_data_path("vedette")


def test_asking_makes_nothing(home: Path) -> None:
    found = Home.from_environment()
    assert not any(path.exists() for path in (found.store, found.cache, found.controller))
