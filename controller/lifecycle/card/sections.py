"""What a card says, section by section; `SECTIONS` has the order."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from controller.lifecycle.card.confusion import confusion_section
from controller.lifecycle.card.facts import CardFacts
from controller.lifecycle.card.tables import class_tables, figure_table, variant_table
from controller.lifecycle.card.words import BY, answer_steps, input_steps
from controller.lifecycle.evaluation.evaluate import Evaluation
from controller.lifecycle.evaluation.examples import EACH, Example
from runtime.evaluation.titles import primary_of, title_of
from runtime.manifest import Variant
from runtime.page import fact_list, hint, section, tiles
from runtime.page.markup import Markup, joined, tag

__all__ = ["SECTIONS", "footer_of", "header_of"]

KINDS: Mapping[str, str] = {
    "classification": "A classifier",
    "detection": "A detector",
    "segmentation": "A segmenter",
    "pose": "A pose estimator",
    "embedding": "An embedding model",
}


def header_of(facts: CardFacts) -> Markup:
    """Return the name, a sentence and the figures that matter most."""
    manifest = facts.manifest
    count = len(manifest.labels)
    classes = f" of {count:,} classes" if count > 1 else ""
    variants = f"{len(manifest.variants)} variant{'s' if len(manifest.variants) > 1 else ''}"
    made = manifest.provenance
    said = (
        f"{KINDS[manifest.task]}{classes} in {variants}, made with {made.framework}, published {made.created:%d %B %Y}."
    )
    return joined(
        tag("p", "Model card", class_="kicker"),
        tag("h1", manifest.name, tag("span", f"@{manifest.version}", class_="version")),
        tag("p", said, class_="lead"),
        tiles(_tiles(facts)),
    )


def _tiles(facts: CardFacts) -> list[tuple[str, str]]:
    """Return the figures that matter most."""
    manifest = facts.manifest
    first = manifest.variants[0]
    metrics = {**first.metrics, **(facts.evaluation.metrics if facts.evaluation else {})}
    primary = primary_of(metrics)
    figures = [(title_of(primary).name, title_of(primary).show(metrics[primary]))] if primary else []
    if fastest := min((v for v in manifest.variants if "latency_ms" in v.metrics), key=_latency, default=None):
        figures.append((f"one picture, {fastest.id}", f"{_latency(fastest):.2f} ms"))
    smallest = min(manifest.variants, key=lambda variant: variant.size)
    figures.append((f"smallest file, {smallest.id}", f"{smallest.size / 1e6:.1f} MB"))
    taken = first.inputs[0]
    figures.append((f"input, {taken.dtype}", f" {BY} ".join(map(str, taken.shape[1:]))))
    return figures


def _latency(variant: Variant) -> float:
    return variant.metrics["latency_ms"]


def _variants(facts: CardFacts) -> Markup:
    where = f" on {facts.machine}" if facts.machine else ""
    said = (
        f"Latency is the median of one picture on one thread{where}, all variants in turns. A variant is published if "
        "it keeps the accuracy and is faster than the first."
    )
    return section("Variants", hint(said), variant_table(facts.manifest))


def _accuracy(facts: CardFacts) -> Markup | None:
    evaluation = facts.evaluation
    if evaluation is None:
        return None
    said = (
        f"Measured with the variant {evaluation.variant} on {evaluation.images:,} "
        f"image{'s' * (evaluation.images != 1)} of {evaluation.dataset} "
        f"({evaluation.provider}), through the predictor that runs everywhere."
    )
    notes = [tag("p", f"{note[:1].upper()}{note[1:]}.", class_="hint") for note in evaluation.notes]
    return section("Accuracy", hint(said), *notes, figure_table(dict(evaluation.metrics)))


def _confusions(facts: CardFacts) -> Markup | None:
    if facts.evaluation is None or facts.evaluation.confusion is None:
        return None
    return section("Confusion matrix", confusion_section(facts.evaluation.confusion))


def _classes(facts: CardFacts) -> Markup | None:
    if facts.evaluation is None or facts.evaluation.classes is None:
        return None
    return section("Classes", class_tables(facts.evaluation.classes))


def _examples(facts: CardFacts) -> Markup | None:
    if facts.evaluation is None or not facts.evaluation.examples:
        return None
    drawn = any(one.right is None for one in facts.evaluation.examples)
    said = "Chosen at random from the same data" + (
        ", with the answers drawn on them." if drawn else f": up to {EACH} wrong answers, then up to {EACH} right ones."
    )
    figures = [_example(one) for one in facts.evaluation.examples]
    kind = "gallery large" if drawn else "gallery"
    return section("Examples", hint(said), tag("div", *figures, class_=kind))


def _example(example: Example) -> Markup:
    source = f"data:image/jpeg;base64,{base64.b64encode(example.jpeg).decode('ascii')}"
    verdict = {True: ("good", "right"), False: ("bad", "wrong"), None: None}[example.right]
    badge = [tag("span", verdict[1], class_=f"badge {verdict[0]}"), " "] if verdict else []
    if example.answer:
        said = [*badge, tag("b", example.answer), tag("br"), f"labelled {example.truth}"]
    else:
        said = [example.truth]
    alt = f"{example.source}: {example.answer or example.truth}"
    return tag("figure", tag("img", src=source, alt=alt, loading="lazy"), tag("figcaption", *said))


def _steps(facts: CardFacts) -> Markup:
    def listed(steps: Sequence[str]) -> Markup:
        return tag("ol", *(tag("li", step) for step in steps))

    manifest = facts.manifest
    return joined(
        section("Before the graph", listed(input_steps(manifest.preprocess))),
        section("After the graph", listed(answer_steps(manifest))),
    )


def _requirements(facts: CardFacts) -> Markup:
    requires, manifest = facts.manifest.requires, facts.manifest
    rows = [
        ("ONNX Runtime", requires.ort),
        ("memory", f"{requires.memory_mb} MB"),
        ("disk", f"{requires.disk_mb} MB"),
        ("opset", ", ".join(sorted({f"{v.opset} (IR {v.ir})" for v in manifest.variants}))),
        *((f"operators of {one.path}", f"SHA-256 {one.sha256}") for one in manifest.custom_ops),
    ]
    for variant in manifest.variants:
        flags = variant.requires
        needs = [
            *flags.cpu_flags,
            *([" or ".join(flags.any_cpu_flags)] if flags.any_cpu_flags else []),
            *(f"without {flag}" for flag in flags.without_cpu_flags),
        ]
        if needs:
            rows.append((f"processor for {variant.id}", ", ".join(needs)))
    return section("Requirements", fact_list(rows))


def _provenance(facts: CardFacts) -> Markup:
    made, manifest = facts.manifest.provenance, facts.manifest
    known = [
        ("framework", made.framework),
        ("route", made.route),
        ("created", f"{made.created:%Y-%m-%d %H:%M:%S} UTC"),
        ("dataset", made.dataset),
        ("git", made.git),
        ("source SHA-256", made.source_sha256),
        ("manifest SHA-256", facts.digest),
        *((f"{one.file} SHA-256", one.sha256) for one in manifest.files),
    ]
    return section("Provenance", fact_list([(name, value) for name, value in known if value]))


def _unmeasured(facts: CardFacts) -> Markup | None:
    notes = list(facts.notes)
    first = facts.manifest.variants[0]
    if facts.evaluation is None and primary_of(first.metrics) is None:
        notes.append("Accuracy was not measured: there was no labelled data.")
    elif facts.evaluation is None:
        notes.append("Classes, confusions and examples are not shown: the card was made without the labelled data.")
    notes += [
        f"The speed of {one.id} was not measured: no device of its class was at hand."
        for one in facts.manifest.variants
        if "latency_ms" not in one.metrics
    ]
    notes += [
        f"Classes without a single image in the data: {absent:,}; nothing is known of them."
        for absent in [_absent(facts.evaluation)]
        if absent
    ]
    sentences = [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in dict.fromkeys(notes)]
    return section("Notes", tag("ul", *(tag("li", note) for note in sentences))) if sentences else None


def _absent(evaluation: Evaluation | None) -> int:
    if evaluation is None or evaluation.confusion is None:
        return 0
    return int((evaluation.confusion.counts.sum(axis=1) == 0).sum())


def footer_of(facts: CardFacts) -> Markup:
    """Return which version the card is of."""
    return tag("p", f"{facts.manifest.reference} · manifest {facts.digest[:12]}")


SECTIONS = (
    _variants,
    _accuracy,
    _examples,
    _confusions,
    _classes,
    _steps,
    _requirements,
    _provenance,
    _unmeasured,
)
"""What a card says, in order; a section that has nothing to say is ``None``."""
