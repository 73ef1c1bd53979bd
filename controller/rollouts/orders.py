"""What an operator may ask of a rollout: pure, like `core`, which carries the orders on.

Rules:
    * An order that does not fit the state is refused with the state that it needs.
    * Pausing and aborting assign nothing new; aborting and rolling back undo only what is still this
      rollout's own: a device that was assigned something else since is left alone.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from controller.errors import FleetError
from controller.rollouts.core import UNDECIDED, Facts, return_devices, send_back
from controller.rollouts.model import Outcome, Rollout, State, Step

__all__ = ["abort", "pause", "resume", "roll_back", "start"]


def _require(rollout: Rollout, verb: str, *states: State) -> None:
    if rollout.state not in states or rollout.returning_since is not None:
        found = "being rolled back" if rollout.returning_since is not None else rollout.state
        raise FleetError(f"rollout {rollout.id} is {found}; to {verb} it, it must be {' or '.join(states)}")


def start(rollout: Rollout) -> Step:
    """Start a draft.

    Raises:
        FleetError: It is none.
    """
    _require(rollout, "start", State.DRAFT)
    return Step(replace(rollout, state=State.RUNNING))


def pause(rollout: Rollout) -> Step:
    """Assign no more devices; those under way go on.

    Raises:
        FleetError: The rollout is not running.
    """
    _require(rollout, "pause", State.RUNNING)
    return Step(replace(rollout, state=State.PAUSED, passed_at=None, reason="paused by an operator"))


def resume(rollout: Rollout) -> Step:
    """Go on; devices that failed get the model once more, and are judged anew.

    Raises:
        FleetError: The rollout is not paused.
    """
    _require(rollout, "resume", State.PAUSED)
    members = {
        device: replace(member, outcome=Outcome.QUEUED, reason="") if member.outcome is Outcome.FAILED else member
        for device, member in rollout.members.items()
    }
    return Step(replace(rollout, state=State.RUNNING, reason="", members=members))


def abort(rollout: Rollout, facts: Facts) -> Step:
    """End the rollout where it is; who has not decided yet is sent back, who succeeded keeps the model.

    Raises:
        FleetError: It has ended already.
    """
    _require(rollout, "abort", State.DRAFT, State.RUNNING, State.PAUSED)
    undecided = [device for device, member in rollout.members.items() if member.outcome in UNDECIDED]
    step = return_devices(replace(rollout, state=State.ABORTED, passed_at=None, reason="aborted"), facts, undecided)
    members = {
        d: replace(m, outcome=Outcome.LEFT, reason="aborted") if d in undecided else m
        for d, m in step.rollout.members.items()
    }
    return Step(replace(step.rollout, members=members), step.actions)


def roll_back(rollout: Rollout, facts: Facts, now: datetime) -> Step:
    """Send every member back to what it served before; a rollout under way is aborted by it.

    Raises:
        FleetError: It has not begun, or was rolled back before.
    """
    under_way = (State.RUNNING, State.PAUSED)
    _require(rollout, "roll back", *under_way, State.SUCCEEDED, State.FAILED, State.ABORTED)
    state = State.ABORTED if rollout.state in under_way else rollout.state
    return send_back(replace(rollout, state=state, reason=rollout.reason or "rolled back by an operator"), facts, now)
