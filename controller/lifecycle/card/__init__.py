"""The model card: one HTML file that says everything about a version, and needs nothing but a browser.

Rules:
    * It loads nothing: style, figures and pictures stand in the file; there is no script.
    * It says what the manifest says, and what an evaluation found; what was not measured is named.
    * All text is escaped. The same facts give the same bytes.
"""

from __future__ import annotations

from controller.lifecycle.card.facts import CardFacts
from controller.lifecycle.card.sections import SECTIONS, footer_of, header_of
from runtime.page import page

__all__ = ["CardFacts", "render_card"]


def render_card(facts: CardFacts) -> bytes:
    """Return the card of *facts*, UTF-8 HTML."""
    return page(
        f"{facts.manifest.reference}: model card",
        header=header_of(facts),
        sections=(part for section in SECTIONS if (part := section(facts))),
        footer=footer_of(facts),
    )
