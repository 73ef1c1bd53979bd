"""The model card: one HTML file that says everything about a version, and needs nothing but a browser.

Rules:
    * It loads nothing: style, figures and pictures stand in the file; there is no script.
    * It says what the manifest says, and what an evaluation found; what was not measured is named.
    * All text is escaped. The same facts give the same bytes.
"""

from __future__ import annotations

from importlib.resources import files

from controller.lifecycle.card.facts import CardFacts
from controller.lifecycle.card.markup import Markup, joined, tag
from controller.lifecycle.card.sections import SECTIONS, footer_of, header_of

__all__ = ["CardFacts", "render_card"]


def render_card(facts: CardFacts) -> bytes:
    """Return the card of *facts*, UTF-8 HTML."""
    manifest = facts.manifest
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{manifest.reference}: model card"),
        tag("style", Markup(style)),
    )
    main = tag("main", *(part for section in SECTIONS if (part := section(facts))))
    body = tag("body", tag("header", header_of(facts)), main, tag("footer", footer_of(facts)))
    return joined(Markup("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n").encode()
