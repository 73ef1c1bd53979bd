"""A rollout's policy as an operator writes it; kept in these words in the database."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from controller.rollouts.model import OnFailure, Policy
from controller.rollouts.schedule import parse_duration, parse_rate, parse_waves, parse_window

__all__ = ["PolicySpec"]

Rate = Annotated[float, Field(ge=0, le=1)]


class PolicySpec(BaseModel):
    """How a rollout goes; the meaning of each is in `model.Policy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    waves: str = "1,10%,100%"
    soak: str = "10m"
    max_failure_rate: Rate = 0.05
    success_rate: Rate = 1.0
    min_samples: Annotated[int, Field(ge=1)] = 10
    device_timeout: str = "1h"
    rate: str | None = None  # N/min
    window: str | None = None  # Mon-Fri 01:00-05:00
    on_failure: OnFailure = OnFailure.PAUSE
    config: dict[str, str] = {}

    def policy(self) -> Policy:
        """Return the parsed policy.

        Raises:
            UsageError: A part is not usable; the text names it.
        """
        return Policy(
            waves=parse_waves(self.waves),
            soak=parse_duration(self.soak),
            max_failure_rate=self.max_failure_rate,
            success_rate=self.success_rate,
            min_samples=self.min_samples,
            device_timeout=parse_duration(self.device_timeout),
            per_minute=parse_rate(self.rate) if self.rate is not None else None,
            window=parse_window(self.window) if self.window is not None else None,
            on_failure=self.on_failure,
            config=self.config,
        )
