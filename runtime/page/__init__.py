"""A page of HTML that says all about one thing and needs nothing but a browser: model cards, reports of jobs.

Rules:
    * It loads nothing: style, figures and pictures stand in the file; there is no script.
    * It reads well in light and dark, on paper and on a small screen; the colours are those of ``style.css``.
    * All text is escaped (`runtime.page.markup`). The same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

from runtime.page.markup import Markup, joined, tag

__all__ = ["fact_list", "hint", "page", "section", "tiles"]


def page(title: str, *, header: Markup, sections: Iterable[Markup], footer: Markup) -> bytes:
    """Return a whole page, UTF-8 HTML.

    Args:
        title: Of the window; plain text.
        header: Above all sections, with the one ``h1``.
        sections: One after the other.
        footer: Below them.
    """
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("header", header), tag("main", *sections), tag("footer", footer))
    return joined(Markup("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n").encode()


def section(title: str, *children: str) -> Markup:
    """Return a part of a page under its heading."""
    return tag("section", tag("h2", title), *children)


def hint(text: str) -> Markup:
    """Return a sentence that says how to read what follows."""
    return tag("p", text, class_="hint")


def tiles(figures: Iterable[tuple[str, str]]) -> Markup:
    """Return (name, value) of the figures that matter most, large and side by side."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in figures), class_="tiles")


def fact_list(rows: Iterable[tuple[str, str]]) -> Markup:
    """Return (name, value) of facts, one a line."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows), class_="facts")
