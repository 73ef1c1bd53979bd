"""HTML as nested calls: what is text is escaped, always; only `Markup` is not.

Names of models and classes come from anywhere: a page must show ``<script>`` as text.
"""

from __future__ import annotations

from html import escape

__all__ = ["Markup", "joined", "tag"]

VOID = frozenset({"br", "img", "meta"})  # without a closing tag
EMPTY = frozenset({"line", "path", "polyline", "rect"})  # of SVG: closed at once


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def joined(*children: str) -> Markup:
    """Return *children* one after the other, escaped unless they are markup."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element.

    Args:
        name: Of the element.
        children: What it holds.
        attributes: By name, ``class_`` for class and ``data_id`` for data-id; those that are ``None`` are left out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}>")
    if name in EMPTY and not children:
        return Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{joined(*children)}</{name}>")
