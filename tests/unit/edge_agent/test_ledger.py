"""The ledger: which assignments are taken, and what a restart remembers."""

from __future__ import annotations

import pytest

from edge_agent.errors import StaleError
from edge_agent.ledger import MAX_BROKEN_TRIALS, Ledger
from runtime.errors import ProtocolError
from runtime.protocol.messages import Failure


def test_it_survives_a_restart(tmp_path, assignment):
    ledger = Ledger().accept(assignment(3), "cam1")
    ledger.save(tmp_path / "ledger.json")
    assert Ledger.load(tmp_path / "ledger.json") == ledger
    assert Ledger.load(tmp_path / "none.json") == Ledger()


def test_a_file_that_is_no_ledger_is_an_error_that_names_it(tmp_path):
    (tmp_path / "ledger.json").write_text("[]")
    with pytest.raises(ProtocolError, match=r"ledger\.json is not valid"):
        Ledger.load(tmp_path / "ledger.json")


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_only_a_rising_sequence_is_taken(assignment, sequence):
    ledger = Ledger().accept(assignment(3), "cam1")
    with pytest.raises(StaleError, match=f"assignment {sequence} "):
        ledger.accept(assignment(sequence, version=2), "cam1")
    assert ledger.accept(assignment(4), "cam1").sequence == 4


def test_another_devices_assignment_is_refused(assignment):
    with pytest.raises(ProtocolError, match="'cam2'"):
        Ledger().accept(assignment(1, device="cam2"), "cam1")


def test_an_assignment_is_pending_until_it_has_an_outcome(assignment):
    pending = Ledger().accept(assignment(1), "cam1")
    failure = Failure(code="proof", message="no", sequence=1, manifest_sha256="0" * 64)
    assert pending.pending == assignment(1)
    assert pending.committed().pending is None
    assert pending.failed(failure).pending is None
    assert pending.failed(failure).accept(assignment(2), "cam1").failure is None


def test_a_model_that_kills_the_agent_again_and_again_is_given_up(assignment):
    ledger = Ledger().accept(assignment(1), "cam1")
    for _ in range(MAX_BROKEN_TRIALS - 1):
        ledger = ledger.trial_broken()
        assert ledger.pending is not None
    ledger = ledger.trial_broken()
    assert ledger.pending is None
    assert (ledger.failure.code, ledger.failure.sequence) == ("probation", 1)
    assert ledger.accept(assignment(2), "cam1").broken_trials == 0
