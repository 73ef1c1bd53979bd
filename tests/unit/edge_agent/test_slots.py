"""The slots: switch, commit, roll-back, and a crash at every point of each."""

from __future__ import annotations

from contextlib import suppress

import pytest

import edge_agent.slots
from edge_agent.slots import Slots


class CrashError(Exception):
    """The power went."""


@pytest.fixture
def crash_after(monkeypatch):
    """Let the next *n* writes happen and none after them; None: all happen."""
    left: list[int | None] = [None]

    def guard(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def guarded(*arguments, **named):
            if left[0] == 0:
                raise CrashError
            left[0] = None if left[0] is None else left[0] - 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, guarded)

    for name in ("replace_bytes", "replace_symlink", "fsync_directory"):
        guard(edge_agent.slots, name)
    guard(edge_agent.slots.Path, "unlink")

    def arm(writes: int | None) -> None:
        left[0] = writes

    return arm


def install(slots: Slots, model) -> None:
    """Bring *model* to the active slot, all the way."""
    (slots.prepare() / "model").write_text(str(model.version))
    slots.switch(model)
    slots.commit()


def test_a_fresh_device_has_nothing(tmp_path):
    slots = Slots(tmp_path / "slots")
    assert (slots.active, slots.standby, slots.on_trial) == (None, None, False)


def test_models_take_turns_and_the_former_one_is_the_standby(tmp_path, model_state):
    slots = Slots(tmp_path)
    for version in (1, 2, 3):
        install(slots, model_state(version))
        assert slots.active.model.version == version
        assert (slots.active.path / "model").read_text() == str(version)
        assert (slots.standby.model.version if slots.standby else None) == (version - 1 or None)


def test_a_roll_back_returns_to_the_former_model(tmp_path, model_state):
    slots = Slots(tmp_path)
    install(slots, model_state(1))
    slots.prepare()
    slots.switch(model_state(2))
    assert slots.active.model.version == 2
    assert slots.standby is None  # undecided: nothing to rely on
    slots.roll_back()
    assert slots.active.model.version == 1
    assert slots.standby is None  # what failed is no model to return to
    assert not slots.on_trial


def test_the_first_model_of_a_device_can_be_rolled_back_too(tmp_path, model_state):
    slots = Slots(tmp_path)
    slots.prepare()
    slots.switch(model_state(1))
    slots.roll_back()
    assert slots.active is None
    install(slots, model_state(2))
    assert slots.active.model.version == 2


def test_the_active_slot_is_never_the_one_that_is_prepared(tmp_path, model_state):
    slots = Slots(tmp_path)
    for version in (1, 2):
        install(slots, model_state(version))
        assert slots.prepare() != slots.active.path
    assert slots.standby is None  # it was emptied


def test_nothing_is_prepared_or_switched_while_a_trial_is_open(tmp_path, model_state):
    slots = Slots(tmp_path)
    slots.prepare()
    slots.switch(model_state(1))
    with pytest.raises(RuntimeError, match="trial is open"):
        slots.prepare()
    with pytest.raises(RuntimeError, match="trial is open"):
        slots.switch(model_state(2))


@pytest.mark.parametrize("first", [True, False], ids=["first model", "second model"])
@pytest.mark.parametrize("writes", range(12))
def test_after_a_crash_anywhere_in_an_update_a_whole_model_serves(tmp_path, model_state, crash_after, first, writes):
    slots = Slots(tmp_path)
    if not first:
        install(slots, model_state(1))
    before = None if first else 1
    committed = False
    crash_after(writes)
    with suppress(CrashError):
        (slots.prepare() / "model").write_text("2")
        slots.switch(model_state(2))
        slots.commit()
        committed = True
    crash_after(None)

    restarted = Slots(tmp_path)
    on_trial = restarted.on_trial
    assert restarted.recover() == on_trial
    version = restarted.active.model.version if restarted.active else None
    assert version in ({2} if committed else {before, 2})
    if on_trial:
        assert version == before  # undecided means the old one
    if version is not None:
        assert (restarted.active.path / "model").read_text() == str(version)
    install(restarted, model_state(3))  # and the device can go on
    assert restarted.active.model.version == 3


@pytest.mark.parametrize("writes", range(8))
def test_a_crash_within_a_roll_back_is_rolled_back_again(tmp_path, model_state, crash_after, writes):
    slots = Slots(tmp_path)
    install(slots, model_state(1))
    slots.prepare()
    slots.switch(model_state(2))
    crash_after(writes)
    with suppress(CrashError):
        slots.roll_back()
    crash_after(None)
    restarted = Slots(tmp_path)
    restarted.recover()
    assert restarted.active.model.version == 1
    assert restarted.standby is None
    assert not restarted.on_trial


def test_a_record_that_cannot_be_read_is_no_model(tmp_path, model_state):
    slots = Slots(tmp_path)
    install(slots, model_state(1))
    (slots.active.path / "slot.json").write_text("{")
    assert slots.active is None
