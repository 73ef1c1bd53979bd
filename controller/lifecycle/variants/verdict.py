"""Whether a variant earns its place beside fp32: pure.

Rules:
    * It may lose so many points of the task's primary figure, and must be faster than fp32 on a device of its class.
    * Where no such device is at hand, its speed is not known, and none is claimed: if its accuracy keeps, it is
      published as unproven.
    * The reference itself, fp32 or whatever the model came as, is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.evaluation.titles import title_of

__all__ = ["Speed", "why_rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a variant is beside the reference, on one execution provider of one device.

    Attributes:
        latency_ms: Median of a batch of one.
        reference_ms: The same of the reference.
    """

    latency_ms: float
    reference_ms: float

    @property
    def speedup(self) -> float:
        """How many times as fast as the reference it is."""
        return self.reference_ms / self.latency_ms


def why_rejected(*, figure: str, value: float, reference: float, speed: Speed | None, max_drop: float) -> str | None:
    """Return why a variant does not earn its place; ``None`` if it does.

    Args:
        figure: Name of the figure that accuracy is judged by, of `runtime.evaluation.titles`.
        value: That figure of the variant, 0 to 1.
        reference: The same of the reference.
        speed: On a device of its class; ``None``: none is at hand.
        max_drop: Percentage points of the figure that may be lost.
    """
    drop = round(100 * (reference - value), 6)  # 0.805 - 0.795 is a bit more than 0.01
    if not drop <= max_drop:  # NaN, too
        return f"{title_of(figure).name} is {drop:.2f} points below fp32; at most {max_drop:g} are allowed"
    if speed is not None and speed.latency_ms >= speed.reference_ms:
        return f"not faster than fp32: {speed.latency_ms:.3f} ms against {speed.reference_ms:.3f} ms"
    return None
