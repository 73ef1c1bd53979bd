"""The tables of a card: variants, figures, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.evaluation.metrics import ClassTable
from runtime.evaluation.titles import TITLES, primary_of, title_of
from runtime.manifest import Manifest, RejectedVariant, Variant
from runtime.page.markup import Markup, joined, tag

__all__ = ["class_tables", "figure_table", "variant_table"]

MOST_ROWS = 30  # classes that are shown at once
SOME_ROWS = 10  # best and worst of more
LONG = 12  # rows, from which on two tables stand side by side
COUNTS = ("support", "pixels")  # columns of whole numbers
COLUMN_NAMES = {"ap50": "AP 50", "ap50_95": "AP 50-95", "f1": "F1", "iou": "IoU"}
ClassRow = tuple[str, tuple[float, ...]]
"""A class, and its figures by column."""
STATES = {"published": "good", "unproven": "open", "rejected": "bad"}


def _column_head(name: str, *, numeric: bool = False) -> Markup:
    return tag("th", name, scope="col", class_="number" if numeric else None)


def _state(variant: Variant | RejectedVariant) -> str:
    if isinstance(variant, RejectedVariant):
        return "rejected"
    return "unproven" if variant.unproven else "published"


def variant_table(manifest: Manifest) -> Markup:
    """Return all variants of *manifest* with what was measured, those rejected with the reason."""
    variants: list[Variant | RejectedVariant] = [*manifest.variants, *manifest.rejected]
    primary = primary_of(manifest.variants[0].metrics)
    wanted = [name for name in (primary, "agreement_fp32", "latency_ms", "speedup_fp32") if name]
    shown = [name for name in wanted if any(name in one.metrics for one in variants)]
    names = ["variant", "state", "for", "size", *(title_of(name).name for name in shown)]
    head = tag("tr", *(_column_head(name, numeric=place > 2) for place, name in enumerate(names)))
    rows = [row for one in variants for row in _variant_rows(one, shown, len(names))]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="wide")


def _variant_rows(variant: Variant | RejectedVariant, shown: Sequence[str], columns: int) -> list[Markup]:
    state = _state(variant)
    size = f"{variant.size / 1e6:.2f} MB" if isinstance(variant, Variant) else "-"
    figures = [title_of(name).show(variant.metrics[name]) if name in variant.metrics else "-" for name in shown]
    cells = [
        tag("th", variant.id, scope="row"),
        tag("td", tag("span", state, class_=f"badge {STATES[state]}")),
        tag("td", _meant_for(variant)),
        *(tag("td", text, class_="number") for text in (size, *figures)),
    ]
    rows = [tag("tr", *cells, class_="said" if state != "published" else None)]
    if isinstance(variant, RejectedVariant):
        rows.append(tag("tr", tag("td", f"Rejected: {variant.reason}.", colspan=columns, class_="why")))
    elif variant.unproven:
        said = "Unproven: no device of its class was at hand; the first one measures it, and runs it if it is faster."
        rows.append(tag("tr", tag("td", said, colspan=columns, class_="why")))
    return rows


def _meant_for(variant: Variant | RejectedVariant) -> str:
    if variant.device_class:
        return variant.device_class
    providers = variant.providers if isinstance(variant, Variant) else ("*",)
    return (
        "any device" if providers == ("*",) else ", ".join(one.removesuffix("ExecutionProvider") for one in providers)
    )


def figure_table(metrics: dict[str, float]) -> Markup:
    """Return *metrics*, in the order of `TITLES`, each with what it means."""
    order = {name: number for number, name in enumerate(TITLES)}
    names = sorted(metrics, key=lambda name: order.get(name, len(order)))
    named = (_column_head(name, numeric=name == "value") for name in ("figure", "value"))
    head = tag("tr", *named, tag("th", "what it is", scope="col", class_="most"))
    rows = []
    for name in names:
        title = title_of(name)
        what = f"{title.what}{' (less is better)' if title.less_is_better else ''}"
        value = tag("td", title.show(metrics[name]), class_="number")
        rows.append(tag("tr", tag("th", title.name, scope="row"), value, tag("td", what)))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="wide")


def class_tables(table: ClassTable) -> Markup:
    """Return the figures of the classes that occur in the data: all, or the worst and best with all behind a click."""
    support = next(number for number, name in enumerate(table.columns) if name in COUNTS)
    occurring = [(label, values) for label, values in table.rows if values[support] > 0]
    absent = len(table.rows) - len(occurring)
    said = f"{len(occurring):,} classes occur in the data" + (f", {absent:,} do not." if absent else ".")
    if len(occurring) <= MOST_ROWS:
        return joined(tag("p", said, class_="hint"), _side_by_side(table.columns, occurring))
    judged_by = 2 if "f1" in table.columns else 0
    known = sorted((row for row in occurring if not math.isnan(row[1][judged_by])), key=lambda row: row[1][judged_by])
    by = _column(table.columns[judged_by])
    whole = tag("details", tag("summary", said), _side_by_side(table.columns, occurring))
    ends = (
        _class_table(table.columns, known[:SOME_ROWS], f"The {SOME_ROWS} classes with the least {by}."),
        _class_table(table.columns, known[: -SOME_ROWS - 1 : -1], f"The {SOME_ROWS} classes with the most {by}."),
    )
    return joined(tag("div", *ends, class_="pair"), whole)


def _column(name: str) -> str:
    return COLUMN_NAMES.get(name, name)


def _side_by_side(columns: Sequence[str], rows: Sequence[ClassRow]) -> Markup:
    """Return *rows* as one table, or where that is long as its two halves."""
    half = (len(rows) + 1) // 2 if len(rows) > LONG else len(rows)
    return tag("div", *(_class_table(columns, part) for part in (rows[:half], rows[half:]) if part), class_="pair")


def _class_table(columns: Sequence[str], rows: Sequence[ClassRow], caption: str | None = None) -> Markup:
    head = tag("tr", _column_head("class"), *(_column_head(_column(name), numeric=True) for name in columns))
    body = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            *(tag("td", _shown(name, value), class_="number") for name, value in zip(columns, values, strict=True)),
        )
        for label, values in rows
    ]
    titled = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *titled, tag("thead", head), tag("tbody", *body)), class_="wide")


def _shown(column: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if column in COUNTS else f"{value:.3f}"
