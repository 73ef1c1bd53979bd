"""Which variants are tried on which execution providers, and which of those that passed serves. Pure.

Rules:
    * The device's preference among providers counts first; on one provider the proven variant with the lowest
      published latency, fp32 after what was made to be better than it, unproven ones last.
    * The first that passes its proof would do. Only where the manifest has unproven variants for the provider that
      it passed on, those are fetched and measured too, and fp32 to compare with: what a fleet downloads is not
      multiplied for figures that were published already.
    * An unproven variant serves only if it was measured to be faster than everything proven that passed.
    * What came of an unproven variant is told to the controller, fast or slow, passed or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.choice import pairs
from runtime.hardware import Machine
from runtime.manifest import Manifest, Variant
from runtime.proof import Proof
from runtime.protocol.messages import VariantProof
from runtime.providers import find

__all__ = ["Candidate", "Trial", "candidates", "fastest", "rivals", "variant_proofs"]

REFERENCE = "fp32"  # precision of what every other variant was made to be better than


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant on an execution provider that it is meant for."""

    variant: str
    provider: str  # reference
    unproven: bool = False
    is_reference: bool = False

    def __str__(self) -> str:
        return f"{self.variant} on {self.provider}"


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate that passed its proof, and the milliseconds of one image; None: not measured."""

    candidate: Candidate
    latency_ms: float | None

    @property
    def order(self) -> tuple[float, bool]:
        """The least of all serves."""
        return float("inf") if self.latency_ms is None else self.latency_ms, self.candidate.unproven


def candidates(manifest: Manifest, providers: Sequence[str], machine: Machine) -> tuple[Candidate, ...]:
    """Return what may serve *manifest* on *machine*, in the order in which it is tried.

    Args:
        manifest: Of the model.
        providers: References, most preferred first.
        machine: The device.
    """

    def order(variant: Variant) -> tuple[bool, bool, float]:
        latency = variant.metrics.get("latency_ms", float("inf"))
        return variant.unproven, variant.precision == REFERENCE, latency

    tried, _ = pairs(sorted(manifest.variants, key=order), [find(provider) for provider in providers], machine)
    by_id = {variant.id: variant for variant in manifest.variants}
    return tuple(
        Candidate(
            pair.variant,
            pair.provider.reference,
            unproven=by_id[pair.variant].unproven,
            is_reference=by_id[pair.variant].precision == REFERENCE,
        )
        for pair in tried
    )


def rivals(rest: Sequence[Candidate], trials: Sequence[Trial]) -> tuple[Candidate, ...]:
    """Return which of the candidates in *rest* are still worth a trial, after *trials* passed.

    Without anything proven among those that passed, everything is: nothing says yet that it pays to run what did.
    """
    proven = [trial.candidate for trial in trials if not trial.candidate.unproven]
    if not proven:
        return tuple(rest)
    there = proven[0].provider
    unproven = [one for one in rest if one.unproven and one.provider == there]
    passed = any(trial.candidate.unproven for trial in trials)
    references = [one for one in rest if one.is_reference and one.provider == there and (unproven or passed)]
    return (*unproven, *references)


def fastest(trials: Sequence[Trial]) -> Candidate:
    """Return the candidate of *trials* that serves."""
    return min(trials, key=lambda trial: trial.order).candidate


def variant_proofs(manifest: Manifest, proofs: Sequence[Proof], device_class: str) -> tuple[VariantProof, ...]:
    """Return what is told of the unproven variants of *manifest* after *proofs* were made on this device."""
    reference = {
        proof.reference: proof.latency_ms
        for proof in proofs
        if proof.passed and manifest.variant(proof.variant).precision == REFERENCE
    }
    return tuple(
        VariantProof(
            variant=proof.variant,
            provider=proof.reference,
            device_class=device_class,
            passed=proof.passed,
            reason=proof.reason,
            latency_ms=proof.latency_ms,
            fp32_latency_ms=reference.get(proof.reference),
        )
        for proof in proofs
        if manifest.variant(proof.variant).unproven
    )
