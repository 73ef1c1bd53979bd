"""An update from desired to committed: which step comes next. No clock, disk, broker or process in here.

    FETCH_MANIFEST -> DOWNLOAD -> VERIFY -> PROVE -> START -> SWITCH -> OBSERVE -> COMMIT -> DONE
                         ^                    |
                         +--- next candidate -+

Rules:
    * What cannot run here is refused before a byte of it is downloaded.
    * Candidates (variant, execution provider) are tried in order until one is proven; one whose proof
      fails costs only itself. Rivals that could be faster (`edge_agent.trials`) are then tried for a while; the
      fastest serves, and nothing that happens to a rival fails the update.
    * A failure before SWITCH ends in DISCARD: the old runner never stopped. A failure from SWITCH on
      ends in ROLL_BACK: the old slot serves again. Neither can be followed by COMMIT.
    * An update ends committed or with exactly one `Problem`, never with both or neither.

`edge_agent.updater` does what is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypedDict

from edge_agent.errors import FailureCode, UpdateError
from edge_agent.trials import Candidate, Trial, fastest, rivals
from runtime.manifest import Requires
from runtime.proof import Proof
from runtime.protocol.messages import Phase

__all__ = ["Action", "Capabilities", "Problem", "Update", "check_requirements"]


class Action(StrEnum):
    """What is to be done next."""

    FETCH_MANIFEST = "fetch manifest"
    DOWNLOAD = "download"
    VERIFY = "verify"
    PROVE = "prove"
    START = "start runner"
    SWITCH = "switch"
    OBSERVE = "observe"
    COMMIT = "commit"
    DISCARD = "discard"  # what was downloaded; the old runner never stopped
    ROLL_BACK = "roll back"  # to the old slot and its runner
    DONE = "done"


PHASES: Final[Mapping[Action, Phase]] = {
    Action.FETCH_MANIFEST: Phase.DOWNLOADING,
    Action.DOWNLOAD: Phase.DOWNLOADING,
    Action.VERIFY: Phase.VERIFYING,
    Action.PROVE: Phase.PROVING,
    Action.START: Phase.SWITCHING,
    Action.SWITCH: Phase.SWITCHING,
    Action.OBSERVE: Phase.PROBATION,
    Action.COMMIT: Phase.PROBATION,
}
_FOLLOWING: Final[Mapping[Action, Action]] = {
    Action.FETCH_MANIFEST: Action.DOWNLOAD,
    Action.DOWNLOAD: Action.VERIFY,
    Action.VERIFY: Action.PROVE,
    Action.PROVE: Action.START,
    Action.START: Action.SWITCH,
    Action.SWITCH: Action.OBSERVE,
    Action.OBSERVE: Action.COMMIT,
    Action.COMMIT: Action.DONE,
    Action.DISCARD: Action.DONE,
    Action.ROLL_BACK: Action.DONE,
}
_TRYING: Final = frozenset({Action.DOWNLOAD, Action.VERIFY, Action.PROVE})
_SWITCHED: Final = frozenset({Action.SWITCH, Action.OBSERVE, Action.COMMIT})
_CLEANING: Final = frozenset({Action.DISCARD, Action.ROLL_BACK})


class _Next(TypedDict):
    """The fields of an `Update` that say what comes next."""

    action: Action
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the update failed; `Failure` without the assignment."""

    code: FailureCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the device has, as far as it decides about an update."""

    ort: str  # version of ONNX Runtime, `1.32.0`; empty if there is none
    memory_mb: int  # in the whole device
    disk_mb: int  # free where the slots are
    providers: tuple[str, ...]  # execution providers that were proven to work, most preferred first
    proofs: tuple[Proof, ...] = ()  # of every provider that this machine prefers, also of those that were refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Where an update stands. The transitions return a new one."""

    action: Action = Action.FETCH_MANIFEST
    candidates: tuple[Candidate, ...] = ()  # left to try, the one under way first; the chosen one from START on
    trials: tuple[Trial, ...] = ()  # candidates that were proven
    refused: tuple[str, ...] = ()  # why each candidate that was not proven is not taken
    fallback: str = ""  # why the proven candidate is not on the provider that this machine prefers
    problem: Problem | None = None

    @property
    def phase(self) -> Phase:
        """What the device reports now."""
        if self.problem is not None:
            return Phase.FAILED
        return PHASES.get(self.action, Phase.COMMITTED)

    @property
    def candidate(self) -> Candidate:
        """The one under way."""
        return self.candidates[0]

    @property
    def switched(self) -> bool:
        """Whether the link may have been moved, so that only a roll-back leads back."""
        return self.action in _SWITCHED

    @property
    def trying_rivals(self) -> bool:
        """Whether what is under way could be faster than what is proven already."""
        return bool(self.trials) and self.action in _TRYING

    def planned(self, chosen: Sequence[Candidate]) -> Update:
        """The manifest is here and names the candidates *chosen*."""
        if not chosen:
            return self.failed("requirements", "no variant of the model is meant for this device")
        return replace(self, action=Action.DOWNLOAD, candidates=tuple(chosen))

    def succeeded(self) -> Update:
        """The action was done."""
        return replace(self, action=_FOLLOWING[self.action])

    def proven(self, latency_ms: float | None = None) -> Update:
        """The candidate passed its proof, and takes *latency_ms* for an image."""
        trials = (*self.trials, Trial(self.candidate, latency_ms))
        return replace(self, trials=trials, **_after(self.candidates[1:], trials))

    def failed(self, code: FailureCode, message: str) -> Update:
        """The action failed for good, or the next candidate's turn has come."""
        if self.action in _CLEANING:  # it failed already; what cleaning adds is not the cause
            return replace(self, action=Action.DONE)
        if self.trying_rivals:
            refused = (*self.refused, f"{self.candidate}: {message}")
            rest = self.candidates[1:] if code == "proof" else ()  # no time, no connection, no disk for another
            return replace(self, refused=refused, **_after(rest, self.trials))
        if self.action is Action.PROVE and code == "proof":
            return self._refuse(message)
        following = Action.ROLL_BACK if self.switched else Action.DISCARD
        return replace(self, action=following, problem=Problem(code, message))

    def _refuse(self, reason: str) -> Update:
        refused = (*self.refused, f"{self.candidate}: {reason}")
        rest = self.candidates[1:]
        if rest:
            return replace(self, action=Action.DOWNLOAD, candidates=rest, refused=refused)
        problem = Problem("proof", "no variant passed its proof: " + "; ".join(refused))
        return replace(self, action=Action.DISCARD, candidates=(), refused=refused, problem=problem)


def _after(rest: Sequence[Candidate], trials: Sequence[Trial]) -> _Next:
    """Return what follows a trial when something is proven: a rival in *rest*, or the fastest of *trials*."""
    if left := rivals(rest, trials):
        return {"action": Action.DOWNLOAD, "candidates": left}
    return {"action": Action.START, "candidates": (fastest(trials),)}


def check_requirements(requires: Requires, have: Capabilities, needed_mb: int = 0) -> None:
    """Check that the device has what the manifest *requires*.

    Args:
        requires: Of the manifest.
        have: What the device has.
        needed_mb: Disk that the update itself needs, chunks included.

    Raises:
        UpdateError: It lacks something; code ``requirements``.
    """
    disk = max(requires.disk_mb, needed_mb)
    lacks = [
        text
        for lacking, text in (
            (not have.ort, "ONNX Runtime is not installed"),
            (bool(have.ort) and not _version_fits(have.ort, requires.ort), f"ORT {have.ort}, needs {requires.ort}"),
            (have.memory_mb < requires.memory_mb, f"{have.memory_mb} MB of memory, needs {requires.memory_mb}"),
            (have.disk_mb < disk, f"{have.disk_mb} MB of disk free, needs {disk}"),
        )
        if lacking
    ]
    if lacks:
        raise UpdateError("requirements", f"the device does not meet the model's requirements: {'; '.join(lacks)}")


def _version_fits(version: str, specifier: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as error:
        raise UpdateError("requirements", f"ORT requirement {specifier!r} cannot be read: {error}") from None
