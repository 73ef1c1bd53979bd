"""What a card is made of."""

from __future__ import annotations

from dataclasses import dataclass

from controller.lifecycle.evaluation.evaluate import Evaluation
from runtime.manifest import Manifest

__all__ = ["CardFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card is made of.

    Attributes:
        manifest: Of the version.
        digest: Of the manifest, lowercase hex.
        evaluation: Of the first variant, the one that all others are compared with; ``None``: accuracy is not known
            beyond what the manifest says.
        notes: What was recognized, assumed or not done when the model was imported.
        machine: On which latency was measured, in words, if it is known.
    """

    manifest: Manifest
    digest: str
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()
    machine: str | None = None
