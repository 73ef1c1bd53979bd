"""The agent's home and its enrolment."""

from __future__ import annotations

import stat
from pathlib import Path

import platformdirs
import pytest

from edge_agent.config import AgentHome
from edge_agent.errors import EnrolmentError
from edge_agent.ledger import Ledger
from runtime.errors import HomeError, ProtocolError
from runtime.protocol.bundle import Bundle


def bundle(device: str = "cam1", password: str = "one") -> Bundle:
    return Bundle(fleet="lab", device=device, broker="mqtt://127.0.0.1", username=device, password=password)


@pytest.fixture
def place(tmp_path):
    return AgentHome(tmp_path / "home")


def test_where_the_home_is(tmp_path, monkeypatch):
    monkeypatch.delenv("VEDETTE_AGENT_HOME", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert AgentHome.resolve().root == Path("/var/lib/vedette-agent")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert AgentHome.resolve().root == platformdirs.user_data_path("vedette-agent")
    monkeypatch.setenv("VEDETTE_AGENT_HOME", str(tmp_path))
    assert AgentHome.resolve().root == tmp_path
    assert AgentHome.resolve(tmp_path / "given").root == tmp_path / "given"


def test_enrolment_keeps_the_secret_to_the_owner(place):
    place.enrol(bundle())
    assert place.load_bundle() == bundle()
    assert stat.S_IMODE(place.bundle.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.root.stat().st_mode) == 0o700


def test_the_same_device_may_enrol_again_and_remembers_its_assignments(place, assignment):
    place.enrol(bundle())
    Ledger().accept(assignment(7), "cam1").save(place.ledger)
    place.enrol(bundle(password="two"))
    assert place.load_bundle().password.get_secret_value() == "two"
    assert Ledger.load(place.ledger).sequence == 7


def test_another_device_must_be_forced_and_forgets(place, assignment):
    place.enrol(bundle())
    Ledger().accept(assignment(7), "cam1").save(place.ledger)
    with pytest.raises(EnrolmentError, match=r"'cam1' of fleet 'lab', not as 'cam2'.*--force"):
        place.enrol(bundle("cam2"))
    place.enrol(bundle("cam2"), force=True)
    assert place.load_bundle().device == "cam2"
    assert Ledger.load(place.ledger) == Ledger()


def test_a_home_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"file/home is not usable.*VEDETTE_AGENT_HOME"):
        AgentHome(tmp_path / "file" / "home").enrol(bundle())


def test_a_device_without_or_with_a_broken_bundle_says_so(place):
    with pytest.raises(EnrolmentError, match="vedette-agent enroll"):
        place.load_bundle()
    place.create()
    place.bundle.write_text("{}")
    with pytest.raises(ProtocolError, match=r"bundle\.json"):
        place.load_bundle()
