"""Which variant runs on which execution provider here: what is tried, what is not and why, and what was missed.

Rules:
    * A pair of variant and EP is tried if the variant's file is here, it is meant for the EP, and, where
      the EP computes on the CPU, the processor is of the kind that the variant is for.
    * Of what passes its proof the fastest measured one runs. One whose manifest calls it unproven runs only if it
      was measured, and is faster than every other that passed.
    * With ``auto``, it is a fall-back if an accelerator that this machine has does not run the model, or an
      EP that is installed was refused; `fallback` says which and why. EPs that compute on the CPU compete
      for the same silicon: which of them is faster is a choice, and none that is not installed is missed.
    * Pure: proofs come in, sentences go out. Loads neither NumPy nor ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runtime.errors import ProviderError
from runtime.hardware import Machine, Part
from runtime.manifest import Manifest, Variant, VariantRequires
from runtime.proof import Proof
from runtime.providers import Provider, preferences

__all__ = ["Pair", "Skipped", "fallback", "fastest", "pairs", "unfit"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A variant on an execution provider."""

    variant: str
    provider: Provider


@dataclass(frozen=True, slots=True)
class Skipped:
    """A pair that was not tried, and why."""

    variant: str
    provider: str  # reference
    reason: str

    def __str__(self) -> str:
        return f"{self.variant} on {self.provider}: {self.reason}"


def pairs(
    variants: Sequence[Variant], providers: Sequence[Provider], machine: Machine, present: Collection[str] | None = None
) -> tuple[list[Pair], list[Skipped]]:
    """Return what is worth a proof, in the order of *providers* and *variants*, and what is not.

    Args:
        variants: Of the manifest, as the caller narrowed them.
        providers: Most preferred first.
        machine: That they are to run on.
        present: Ids of the variants whose files are here; all if ``None``.
    """
    tried, skipped = [], []
    for provider in providers:
        for variant in variants:
            reason = _obstacle(variant, provider, machine, present)
            if reason:
                skipped.append(Skipped(variant.id, provider.reference, reason))
            else:
                tried.append(Pair(variant.id, provider))
    return tried, skipped


def _obstacle(variant: Variant, provider: Provider, machine: Machine, present: Collection[str] | None) -> str:
    """Return why *variant* is not tried on *provider*; empty if it is."""
    if present is not None and variant.id not in present:
        return "its file is not here"
    if "*" not in variant.providers and provider.name not in variant.providers:
        return f"it is meant for {', '.join(variant.providers)}"
    return unfit(variant.requires, machine) if provider.part is Part.CPU else ""


def unfit(requires: VariantRequires, machine: Machine) -> str:
    """Return why the processor of *machine* is none that a variant is for; empty if it is one."""
    here = f"this processor ({machine.model or machine.architecture})"
    lacking = [flag for flag in requires.cpu_flags if flag not in machine.cpu_flags]
    if requires.any_cpu_flags and machine.cpu_flags.isdisjoint(requires.any_cpu_flags):
        lacking.append(" or ".join(requires.any_cpu_flags))
    if lacking:
        return f"it needs {', '.join(lacking)}, which {here} lacks"
    present = [flag for flag in requires.without_cpu_flags if flag in machine.cpu_flags]
    return f"it is for processors without {', '.join(present)}, which {here} has" if present else ""


def fastest(manifest: Manifest, proofs: Sequence[Proof], skipped: Sequence[Skipped] = ()) -> Proof:
    """Return the fastest of the *proofs* that passed; of an unproven variant only if nothing else is as fast.

    Raises:
        ProviderError: None passed; the text says for each why not.
    """
    passed = [proof for proof in proofs if proof.passed]
    if not passed:
        why = "; ".join([*(f"{p.variant} on {p.reference}: {p.reason}" for p in proofs), *map(str, skipped)])
        nothing = "no variant that is here is meant for any that may be tried"
        raise ProviderError(f"{manifest.reference} runs on no execution provider here: {why or nothing}")
    unproven = {variant.id for variant in manifest.variants if variant.unproven}
    return min(passed, key=lambda proof: (_latency(proof), proof.variant in unproven))


def _latency(proof: Proof) -> float:
    return float("inf") if proof.latency_ms is None else proof.latency_ms


def fallback(machine: Machine, chosen: Proof, proofs: Sequence[Proof], skipped: Sequence[Skipped] = ()) -> str | None:
    """Return why *chosen* does not run on the EP that *machine* prefers; ``None`` if it does.

    Args:
        machine: Where it runs.
        chosen: The proof of what runs.
        proofs: All that were made, of *chosen* too.
        skipped: What was not tried.
    """
    for provider in preferences(machine):
        if provider.reference == chosen.reference:
            return None
        ours = [proof for proof in proofs if proof.reference == provider.reference]
        if provider.part is Part.CPU and (not ours or any(proof.passed or not proof.installed for proof in ours)):
            continue
        return f"{provider} was preferred on this machine: {_missed(provider, chosen, ours, skipped)}"
    return None


def _missed(provider: Provider, chosen: Proof, proofs: Sequence[Proof], skipped: Sequence[Skipped]) -> str:
    if slower := [proof for proof in proofs if proof.passed]:
        best = min(slower, key=lambda proof: proof.latency_ms or 0.0)
        return f"it is slower, {_ms(best)} against {_ms(chosen)} of {chosen.variant} on {chosen.reference}"
    if proofs:
        return "; ".join(dict.fromkeys(proof.reason for proof in proofs))
    if reasons := [f"{one.variant}: {one.reason}" for one in skipped if one.provider == provider.reference]:
        return "; ".join(reasons)
    return f"not installed: {provider.install}"


def _ms(proof: Proof) -> str:
    return "an unknown time" if proof.latency_ms is None else f"{proof.latency_ms:.3g} ms"
