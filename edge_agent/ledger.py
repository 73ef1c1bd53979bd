"""What the device was last told to run, and what became of it: survives every restart.

Rules:
    * An assignment is taken only if it names this device and its sequence is above the last seen.
    * What was seen is on the disk before anything is done about it.
    * An assignment without an outcome is taken up again after a restart, unless its trial killed the
      agent `MAX_BROKEN_TRIALS` times: then it has failed, or one bad model could keep a device busy
      with dying for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.errors import StaleError
from runtime.errors import ProtocolError
from runtime.files import replace_bytes
from runtime.protocol.messages import Assignment, Failure

__all__ = ["MAX_BROKEN_TRIALS", "Ledger"]

MAX_BROKEN_TRIALS = 2


class Ledger(BaseModel):
    """The last assignment and its outcome; every method that changes something returns a new ledger."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    assignment: Assignment | None = None
    outcome: Literal["none", "pending", "committed", "failed"] = "none"
    failure: Failure | None = None
    broken_trials: int = 0  # trials of this assignment during which the agent died

    @property
    def sequence(self) -> int:
        """The last sequence seen; 0 before the first assignment."""
        return self.assignment.sequence if self.assignment else 0

    @property
    def pending(self) -> Assignment | None:
        """The assignment that still has to be acted upon."""
        return self.assignment if self.outcome == "pending" else None

    def accept(self, assignment: Assignment, device: str) -> Self:
        """Return the ledger with *assignment* to be acted upon.

        Raises:
            ProtocolError: It is meant for another device.
            StaleError: Its sequence is not above the last one seen.
        """
        if assignment.device != device:
            raise ProtocolError(f"assignment {assignment.sequence} is for device {assignment.device!r}, not {device!r}")
        if assignment.sequence <= self.sequence:
            raise StaleError(
                f"assignment {assignment.sequence} ({assignment.reference}) is not above {self.sequence}, the last seen"
            )
        return type(self)(assignment=assignment, outcome="pending")

    def committed(self) -> Self:
        """Return the ledger with the assignment done."""
        return self.model_copy(update={"outcome": "committed", "failure": None})

    def failed(self, failure: Failure) -> Self:
        """Return the ledger with the assignment given up for *failure*."""
        return self.model_copy(update={"outcome": "failed", "failure": failure})

    def trial_broken(self) -> Self:
        """Return the ledger after the agent died within a trial; given up when that was once too often."""
        if self.assignment is None or self.outcome != "pending":
            return self
        ledger = self.model_copy(update={"broken_trials": self.broken_trials + 1})
        if ledger.broken_trials < MAX_BROKEN_TRIALS:
            return ledger
        message = f"the agent died {ledger.broken_trials} times while {self.assignment.reference} was on probation"
        return ledger.failed(
            Failure(
                code="probation",
                message=message,
                sequence=self.sequence,
                manifest_sha256=self.assignment.manifest_sha256,
            )
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the ledger in the file *path*; an empty one if there is none.

        Raises:
            ProtocolError: The file is not a ledger: someone edited it, or the disk did.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise ProtocolError(
                f"{path} is not valid ({error.error_count()} errors); remove it to start anew"
            ) from None

    def save(self, path: Path) -> None:
        """Write the ledger to *path*, atomically and durably."""
        replace_bytes(path, self.model_dump_json().encode())
