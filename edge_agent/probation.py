"""Probation: when a model that just took over has earned its place. Pure; the clock is an argument.

Rules:
    * One failed inference is too many; a runner may end unasked `crashes` times, not more.
    * It must have served for `seconds` and, where a source gives frames, have done `frames` of them.
    * A source that gives too few frames within `patience` is no proof of anything: the model fails.

An assignment's ``config`` may set ``probation_seconds``, ``probation_frames``, ``probation_crashes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from edge_agent.errors import UpdateError

__all__ = ["Rules", "Seen", "passed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a model must do."""

    seconds: float = 5.0
    frames: int = 1
    crashes: int = 1

    @property
    def patience(self) -> float:
        """Seconds until too few frames are a failure."""
        return max(60.0, 10 * self.seconds)

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> Self:
        """Return the rules that an assignment's *config* sets.

        Raises:
            UpdateError: A value is no number, or negative; code ``requirements``.
        """
        default = cls()
        return cls(
            seconds=_number(config, "probation_seconds", default.seconds),
            frames=int(_number(config, "probation_frames", default.frames)),
            crashes=int(_number(config, "probation_crashes", default.crashes)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the model did since the switch."""

    seconds: float
    frames: int
    errors: int
    crashes: int
    waiting: bool  # the runner says that no frame is to come
    reason: str = ""  # of the last crash


def passed(rules: Rules, seen: Seen) -> bool:
    """Return whether probation is over, and well.

    Raises:
        UpdateError: The model failed; code ``probation``.
    """
    if seen.errors:
        raise UpdateError("probation", f"{seen.errors} inferences failed, {seen.frames} gave a result")
    if seen.crashes > rules.crashes:
        raise UpdateError("probation", f"the runner ended {seen.crashes} times unasked; last: {seen.reason}")
    enough = seen.waiting or seen.frames >= rules.frames
    if not enough and seen.seconds > rules.patience:
        raise UpdateError("probation", f"{seen.frames} frames in {seen.seconds:.0f} s; expected {rules.frames}")
    return enough and seen.seconds >= rules.seconds


def _number(config: Mapping[str, str], key: str, default: float) -> float:
    text = config.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UpdateError("requirements", f"config {key} is {text!r}; expected a number from 0 on")
    return value
