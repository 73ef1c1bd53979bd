"""Figures as inline SVG: a rate over time, shares of a whole, bars in a table.

Rules:
    * Colours are classes of ``style.css``, so that a figure follows light, dark and print.
    * A figure never says alone what it says: its numbers stand beside it as text, or in its title.
    * Lengths are in the units of the view box; the page scales it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from runtime.page.markup import Markup, joined, tag

__all__ = ["bar", "bar_table", "duration", "rate_chart", "share_chart", "ticks"]

WIDTH, HEIGHT = 720, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 26  # room for what stands beside the axes
STEPS = (1, 2, 2.5, 5, 10)
CLOCK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)  # seconds
TIME_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
COLORS = 4  # classes c0, c1, ... of style.css


def ticks(top: float, most: int = 4) -> list[float]:
    """Return round numbers from 0 to *top* or just above, about *most* steps; ``[0, 1]`` where *top* is not above 0."""
    if top <= 0 or not math.isfinite(top):
        return [0.0, 1.0]
    scale = 10.0 ** math.floor(math.log10(top / most))
    step = next(size * scale for size in STEPS if size * scale * most >= top * (1 - 1e-9))
    return [step * number for number in range(math.ceil(top / step - 1e-9) + 1)]


def duration(seconds: float) -> str:
    """Return *seconds* as people say them: ``0.25 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for place, (size, unit) in enumerate(TIME_UNITS):
        if whole >= size:
            parts = [f"{whole // size} {unit}"]
            if place + 1 < len(TIME_UNITS):
                smaller, small_unit = TIME_UNITS[place + 1]
                parts += [f"{rest} {small_unit}"] if (rest := whole % size // smaller) else []
            return " ".join(parts)
    return "0 s"


def _clock_step(span: float) -> float:
    if span < 6:
        return ticks(span, 6)[1]
    return next((step for step in CLOCK_STEPS if span / step <= 8), ticks(span / 86400, 6)[1] * 86400)


def rate_chart(values: Sequence[float], width: float, *, unit: str, mean: float) -> Markup:
    """Return a rate over time.

    Args:
        values: The mean rate in each interval, one after the other.
        width: Of an interval, in seconds.
        unit: Of the rate, as ``rows/s``.
        mean: A line is drawn at it.
    """
    axis = ticks(max([*values, mean], default=0.0))
    span = max(width * len(values), 1e-9)

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / span, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / axis[-1], 1)

    steps = "".join(f"V{y(value)}H{x(width * (place + 1))}" for place, value in enumerate(values))
    marks = [
        joined(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid"),
            tag("text", f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}", x=LEFT - 8, y=y(tick) + 4, class_="end"),
        )
        for tick in axis
    ]
    step = _clock_step(span)
    for number in range(int(span / step) + 1):
        anchor = "end" if x(number * step) > WIDTH - RIGHT - 20 else "middle"
        said = duration(number * step) if number else "0"
        marks.append(tag("text", said, x=x(number * step), y=HEIGHT - 6, class_=anchor))
    body = joined(
        tag("title", f"{unit} over {duration(span)}; {mean:,.1f} {unit} in the mean"),
        *marks,
        tag("path", d=f"M{x(0)} {y(0)}{steps}V{y(0)}Z", class_="area"),
        tag("path", d=f"M{x(0)} {y(values[0] if values else 0)}{steps}", class_="edge"),
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(mean), y2=y(mean), class_="mean"),
    )
    return tag("svg", body, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img")


def share_chart(parts: Sequence[tuple[str, float]], show: Callable[[float], str]) -> Markup:
    """Return the *parts* of a whole as one divided bar, with a legend that names each, its amount and its share."""
    whole = sum(amount for _, amount in parts) or 1.0
    pieces, legend, position = [], [], 0.0
    for place, (name, amount) in enumerate(parts):
        share, color = amount / whole, f"c{place % COLORS}"
        pieces.append(tag("rect", x=f"{100 * position:.2f}", width=f"{100 * share:.2f}", height=12, class_=color))
        position += share
        swatch = tag("svg", tag("rect", width=10, height=10, class_=color), viewBox="0 0 10 10", aria_hidden="true")
        legend.append(tag("li", swatch, tag("b", name), " ", f"{show(amount)} · {share:.0%}"))
    drawn = tag("svg", *pieces, viewBox="0 0 100 12", class_="shares", preserveAspectRatio="none", aria_hidden="true")
    return joined(drawn, tag("ul", *legend, class_="legend"))


def bar(share: float, kind: str | None = None) -> Markup:
    """Return a bar as long as *share*, 0 to 1, of its cell; *kind* is a class of ``style.css``."""
    drawn = tag("rect", width=f"{100 * share:.1f}", height=8)
    said = f"bar {kind}" if kind else "bar"
    return tag("svg", drawn, viewBox="0 0 100 8", class_=said, aria_hidden="true", preserveAspectRatio="none")


def bar_table(names: tuple[str, str], rows: Sequence[tuple[str, int]], *, whole: int, kind: str = "plain") -> Markup:
    """Return *rows* of (name, count) as a table with a share of *whole* and a bar each; the longest bar is full.

    Args:
        names: Heads of the first two columns.
        rows: In the order to show.
        whole: What 100 % is.
        kind: Class of the bars.
    """
    most = max((count for _, count in rows), default=0) or 1
    head = tag(
        "tr",
        tag("th", names[0], scope="col"),
        *(tag("th", name, scope="col", class_="number") for name in (names[1], "share")),
        tag("th", "", scope="col", class_="most", aria_label="bar"),
    )
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", f"{count:,}", class_="number"),
            tag("td", f"{count / whole:.1%}" if whole else "-", class_="number"),
            tag("td", bar(count / most, kind)),
        )
        for name, count in rows
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")
