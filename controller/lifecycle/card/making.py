"""The card of a published version: the one in the store, or one made now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from controller.lifecycle.card import CardFacts, render_card
from controller.lifecycle.evaluation.evaluate import Evaluation, evaluate
from controller.registry.cards import read_card
from runtime.datasets import Dataset
from runtime.hardware import this_machine
from runtime.manifest import Manifest
from runtime.store import ModelStore, parse_reference, resolve_artifact

__all__ = ["MadeCard", "card_maker", "card_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCard:
    """A card.

    Attributes:
        reference: ``NAME@VERSION``.
        html: UTF-8.
        published: Whether it is the one that was made when the version was published.
    """

    reference: str
    html: bytes
    published: bool


def card_of(store: ModelStore, reference: str, dataset: Dataset | None = None) -> MadeCard:
    """Return the card of the version that *reference* means in *store*.

    Args:
        store: Where it is published.
        reference: ``NAME`` or ``NAME@VERSION``.
        dataset: Labelled; a card is made with what the first variant answers on it. ``None``: the published one, or
            where there is none, one of what the manifest says.

    Raises:
        ModelNotFoundError: There is no such version.
        DatasetError: *dataset* cannot be used.
    """
    name, version = parse_reference(reference)
    data = store.manifest_bytes(name, version if version is not None else store.latest(name))
    manifest, digest = Manifest.parse(data), hashlib.sha256(data).hexdigest()
    if dataset is None:
        published = read_card(store, digest)
        html = render_card(CardFacts(manifest=manifest, digest=digest)) if published is None else published
        return MadeCard(reference=manifest.reference, html=html, published=published is not None)
    artifact = resolve_artifact(manifest.reference, store)
    facts = CardFacts(manifest=manifest, digest=digest, evaluation=evaluate(artifact, manifest.variants[0].id, dataset))
    return MadeCard(reference=manifest.reference, html=render_card(facts), published=False)


def card_maker(evaluation: Evaluation | None, notes: tuple[str, ...]) -> Callable[[Manifest], bytes]:
    """Return what makes the card of a manifest about to be published, on the machine that measured its latency.

    Args:
        evaluation: Of the first variant, if there was labelled data.
        notes: What was recognized, assumed or not done.
    """
    machine = this_machine().model

    def make(manifest: Manifest) -> bytes:
        return render_card(
            CardFacts(manifest=manifest, digest=manifest.digest, evaluation=evaluation, notes=notes, machine=machine)
        )

    return make
