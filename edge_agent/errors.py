"""Every error that the agent raises on purpose, as one tree.

    runtime.errors.VedetteError
    └── AgentError
        ├── EnrolmentError       not enrolled, or enrolled as somebody else
        ├── StaleError           an assignment that is not newer than the last one seen
        ├── UpdateError          a step of an update failed; carries `Failure.code`
        │   ├── FetchError       chunks cannot be had (`download`) or are not what they must be (`integrity`)
        │   └── RunnerError      a runner process did not start, or does not serve
        └── DisconnectedError    there is no connection to the broker now

Rules: as in `runtime.errors`. What goes to the controller as `Failure` is always an `UpdateError`.
"""

from __future__ import annotations

from typing import Literal

from runtime.errors import VedetteError

__all__ = [
    "AgentError",
    "DisconnectedError",
    "EnrolmentError",
    "FailureCode",
    "FetchError",
    "RunnerError",
    "StaleError",
    "UpdateError",
]

FailureCode = Literal[
    "download", "integrity", "proof", "requirements", "runner", "probation", "superseded", "deadline", "internal"
]


class AgentError(VedetteError):
    """Base of the agent's own errors."""


class EnrolmentError(AgentError):
    """The device is not enrolled, or enrolled as somebody else."""


class StaleError(AgentError):
    """An assignment is not newer than the last one seen."""


class DisconnectedError(AgentError):
    """There is no connection to the broker now."""


class UpdateError(AgentError):
    """A step of an update failed; the old model serves on.

    Attributes:
        code: What kind of failure it is, as `runtime.protocol.messages.Failure.code` has it.
    """

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code


class FetchError(UpdateError):
    """Chunks cannot be had, or are not what they must be."""


class RunnerError(UpdateError):
    """A runner process did not start, or does not serve."""

    def __init__(self, message: str) -> None:
        super().__init__("runner", message)
