"""Who earns a place in a draft: accuracy and speed of every variant, and what follows from them.

Rules:
    * Accuracy is measured on the CPU EP, whatever a variant is for: it is a matter of the numbers in the graph.
    * Speed is measured on a device of the variant's class, beside the reference on the same execution provider, and
      only there; where this machine is none, or its provider does not run the graph, no latency is claimed.
    * Half precision must give what fp32 gives, within what half precision explains; and nothing may become NaN.
    * A rejected variant leaves its figures in the manifest, and its file nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controller.lifecycle.evaluation.evaluate import Evaluation, evaluate, measure_latency
from controller.lifecycle.variants.draft import Draft
from controller.lifecycle.variants.footprint import peak_memory_mb
from controller.lifecycle.variants.golden import TOLERANCES
from controller.lifecycle.variants.kinds import VARIANTS, at_hand
from controller.lifecycle.variants.verdict import Speed, why_rejected
from runtime.comparison import compare
from runtime.datasets import Dataset
from runtime.errors import ModelError, ProviderError
from runtime.evaluation.titles import primary_of
from runtime.hardware import Machine, this_machine
from runtime.manifest import Manifest, Postprocess, RejectedVariant, Requires, Variant, VariantRequires
from runtime.providers import CPU

__all__ = ["Judged", "judged", "measured_speeds"]

Speeds = Mapping[str, Speed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of judging a draft.

    Attributes:
        manifest: Without the variants that do not earn their place, which it names.
        evaluation: Of the reference; ``None``: accuracy was not measured.
    """

    manifest: Manifest
    evaluation: Evaluation | None


def judged(
    draft: Draft,
    manifest: Manifest,
    evaluation: Dataset | None,
    max_drop: float,
    *,
    failed: Mapping[str, str] | None = None,
    speeds: Speeds | None = None,
) -> Judged:
    """Return *manifest* with measured accuracy, speed and memory, without the variants that do not earn their place.

    Args:
        draft: Has the files.
        manifest: Of `Draft.manifest`.
        evaluation: Labelled data; ``None``: accuracy is not measured, and there is the reference alone.
        max_drop: Percentage points of the primary figure that a variant may lose against the reference.
        failed: Why variants could not be built, by id.
        speeds: Of the variants whose class is at hand, by id; measured if ``None``.
    """
    rejected = [_rejected(name, reason, {}) for name, reason in (failed or {}).items()]
    results: dict[str, Evaluation] = {}
    if evaluation is not None:
        others = manifest.variants[1:]
        speeds = measured_speeds(draft, [v.id for v in others], this_machine()) if speeds is None else speeds
        results = _results(draft, manifest, evaluation)
        kept, refused = _sorted_out(draft, _measured(draft, manifest, results, speeds), manifest, speeds, max_drop)
        rejected = [*refused, *rejected]
        for one in refused:
            draft.paths[one.id].unlink()
        manifest = draft.with_variants(manifest, kept)
    manifest = manifest.model_copy(update={"rejected": tuple(rejected)})
    root = draft.opened(manifest).root
    memory = max(peak_memory_mb(root, variant.id) for variant in manifest.variants)
    disk = max(variant.size for variant in manifest.variants) + manifest.golden.size
    requires = Requires(memory_mb=memory, disk_mb=math.ceil(disk / 1e6))
    return Judged(
        manifest=manifest.model_copy(update={"requires": requires}), evaluation=results.get(draft.reference.precision)
    )


def measured_speeds(draft: Draft, ids: Sequence[str], machine: Machine) -> dict[str, Speed]:
    """Return how fast those variants are of whose class *machine* is, beside the reference; on the CPU its own, too."""
    speeds: dict[str, Speed] = {}
    found = {name: at_hand(VARIANTS[name], machine) for name in ids}
    providers = {name: provider.reference for name, provider in found.items() if provider is not None}
    reference = draft.reference.precision
    for provider in dict.fromkeys(providers.values()):
        group = [name for name in providers if providers[name] == provider]
        paths = {name: draft.paths[name] for name in (reference, *group)}
        try:
            times = measure_latency(paths, draft.one, draft.reference.custom_ops, provider)
        except (ModelError, ProviderError):  # installed, but its driver or the graph is not what it takes
            continue
        measured = paths if provider == CPU.reference else group
        speeds |= {name: Speed(latency_ms=times[name], reference_ms=times[reference]) for name in measured}
    return speeds


def _results(draft: Draft, manifest: Manifest, evaluation: Dataset) -> dict[str, Evaluation]:
    """Return what the variants of *manifest* answer, by id."""
    anywhere = {"providers": ("*",), "requires": VariantRequires()}  # on the CPU EP, whatever they are for
    everywhere = [variant.model_copy(update=anywhere) for variant in manifest.variants]
    artifact = draft.opened(manifest.model_copy(update={"variants": tuple(everywhere)}))
    return {variant.id: evaluate(artifact, variant.id, evaluation) for variant in manifest.variants}


def _measured(draft: Draft, manifest: Manifest, results: Mapping[str, Evaluation], speeds: Speeds) -> list[Variant]:
    """Return the variants of *manifest* with their accuracy, and what they gain and lose against the reference."""
    reference = results[draft.reference.precision]
    return [
        variant.model_copy(
            update={
                "metrics": {**variant.metrics, **_figures(results[variant.id], reference, speeds.get(variant.id))},
                "unproven": variant.id not in {draft.reference.precision, *speeds},
            }
        )
        for variant in manifest.variants
    ]


def _figures(result: Evaluation, reference: Evaluation, speed: Speed | None) -> dict[str, float]:
    figures = {
        **{name: round(value, 6) for name, value in result.metrics.items()},
        "agreement_fp32": round(result.agreement(reference), 6),
        f"{result.primary}_images": float(result.images),
    }
    if speed is not None:
        figures |= {"latency_ms": round(speed.latency_ms, 4), "speedup_fp32": round(speed.speedup, 3)}
    return figures


def _sorted_out(
    draft: Draft, variants: Sequence[Variant], manifest: Manifest, speeds: Speeds, max_drop: float
) -> tuple[list[Variant], list[RejectedVariant]]:
    """Return the variants that earn their place beside the first, and the others."""
    reference, *others = variants
    figure = primary_of(reference.metrics) or ""
    kept, refused = [reference], []
    for variant in others:
        reason = _wrong_numbers(draft, variant, manifest.postprocess) or why_rejected(
            figure=figure,
            value=variant.metrics[figure],
            reference=reference.metrics[figure],
            speed=speeds.get(variant.id),
            max_drop=max_drop,
        )
        if reason is None:
            kept.append(variant)
        else:
            refused.append(_rejected(variant.id, reason, variant.metrics))
    return kept, refused


def _wrong_numbers(draft: Draft, variant: Variant, postprocess: Postprocess) -> str | None:
    """Return why what *variant* gives for the golden input is wrong whatever its accuracy; ``None`` if it is not."""
    found, expected = draft.outputs[variant.id], draft.outputs[draft.reference.precision]
    for name, output in found.items():
        if np.isfinite(expected[name]).all() and not np.isfinite(output).all():
            return f"output {name!r} is NaN or infinite where that of fp32 is not"
    if variant.precision != "fp16":
        return None
    try:
        compare(found, expected, TOLERANCES["fp16"], postprocess)
    except ProviderError as error:
        return f"further from fp32 than half precision explains: {error}"
    return None


def _rejected(name: str, reason: str, metrics: Mapping[str, float]) -> RejectedVariant:
    kind = VARIANTS[name]
    return RejectedVariant(
        id=name, precision=kind.precision, device_class=kind.device_class, reason=reason, metrics=dict(metrics)
    )
