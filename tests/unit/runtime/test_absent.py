from __future__ import annotations

import sys

import pytest

from runtime.absent import absent


@pytest.fixture
def unloaded(monkeypatch):
    """The name of a module of the standard library that is not loaded."""
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda _url: True)
    return "antigravity"


def test_a_module_is_absent_inside_and_there_after(unloaded):
    with absent(unloaded), pytest.raises(ModuleNotFoundError, match="not needed here") as caught:
        __import__(unloaded)
    assert caught.value.name == unloaded
    assert __import__(unloaded).__name__ == unloaded


def test_what_is_loaded_already_stays():
    with absent("json"):
        import json
    assert json.loads("1") == 1


def test_others_are_found_as_ever(unloaded):
    with absent("pandas"):
        assert __import__(unloaded).__name__ == unloaded


def test_nothing_is_left_behind_after_an_error():
    before = list(sys.meta_path)
    with pytest.raises(ValueError, match="x"), absent("pandas"):
        raise ValueError("x")
    assert sys.meta_path == before
