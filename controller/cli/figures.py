"""The table of a model's variants: for whom each is, how good, how fast, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.manifest import Manifest, RejectedVariant, Variant
from runtime.providers import ALIASES
from runtime.terminal import table

__all__ = ["figures", "proof_of"]

MOST_PROOFS = 3  # devices named


def figures(manifest: Manifest, proofs: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a table of the variants of *manifest*, those rejected too.

    Args:
        manifest: Of the model.
        proofs: What devices said of its unproven variants, as the controller lists it.
    """
    from runtime.evaluation.titles import primary_of, title_of

    reference = manifest.variants[0]
    primary = primary_of(reference.metrics)

    def row(variant: Variant | RejectedVariant, size: str, verdict: str) -> tuple[str, ...]:
        named = (primary or "", "agreement_fp32", "latency_ms", "speedup_fp32")
        shown = (title_of(name).show(variant.metrics[name]) if name in variant.metrics else "-" for name in named)
        return variant.id, variant.device_class or "any", size, *shown, verdict

    rows = [row(one, f"{one.size / 1e6:.2f} MB", _verdict(one, proofs)) for one in manifest.variants]
    rows += [row(one, "-", f"rejected: {one.reason}") for one in manifest.rejected]
    titles = [title_of(name).name for name in ("agreement_fp32", "latency_ms", "speedup_fp32")]
    headers = ("variant", "for", "size", title_of(primary).name if primary else "accuracy", *titles, "")
    return table(headers, rows)


def _verdict(variant: Variant, proofs: Sequence[Mapping[str, Any]]) -> str:
    if not variant.unproven:
        return "published"
    mine = [proof_of(proof) for proof in proofs if proof["variant"] == variant.id]
    more = [f"and {len(mine) - MOST_PROOFS} more"] if len(mine) > MOST_PROOFS else []
    return "; ".join(["unproven", *mine[:MOST_PROOFS], *more])


def proof_of(proof: Mapping[str, Any]) -> str:
    """Return what a device said of an unproven variant, in words."""
    where = f"on {proof['device']} ({_alias(str(proof['provider']))})"
    if not proof["passed"]:
        return f"refused {where}: {proof['reason']}"
    speedup = proof["speedup"]
    return f"proven {where}" if speedup is None else f"proven {where} {speedup:.1f}x"


def _alias(reference: str) -> str:
    """Return how a person names the provider of that *reference*, as ``--provider`` takes it."""
    name, colon, device = reference.partition(":")
    aliases = {full: alias for alias, full in ALIASES.items()}
    return f"{aliases.get(name, name)}{colon}{device.lower()}"
