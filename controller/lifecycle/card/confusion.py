"""A confusion matrix that people can read: whole where it is small, its worst pairs where it is not.

Rules:
    * Only classes that occur, in the data or in the answers, are shown.
    * `MOST_CLASSES` at most stand in a matrix. Of more, the `MOST_PAIRS` most frequent confusions are listed, with what
      share of the class they are: a matrix of a thousand classes says nothing to anybody.
    * A cell has its number as text; its tint says the share of its row, and is never alone in saying something.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime.evaluation.metrics import Confusion
from runtime.evaluation.metrics.detection import NOTHING
from runtime.page.charts import bar
from runtime.page.markup import Markup, joined, tag

__all__ = ["confusion_section"]

MOST_CLASSES = 20
MOST_PAIRS = 20

Counts = npt.NDArray[np.int64]


def confusion_section(confusion: Confusion) -> Markup:
    """Return *confusion* as a table, with a sentence that says how to read it."""
    occurs = np.flatnonzero(confusion.counts.sum(axis=0) + confusion.counts.sum(axis=1))
    if len(occurs) > MOST_CLASSES:
        return _worst(confusion, len(occurs))
    labels = tuple(confusion.labels[number] for number in occurs)
    return _matrix(Confusion(labels=labels, counts=confusion.counts[np.ix_(occurs, occurs)], unit=confusion.unit))


def _matrix(confusion: Confusion) -> Markup:
    labels, counts, shares, unit = confusion.labels, confusion.counts, confusion.shares, confusion.unit
    corner = tag("th", "answered →", tag("br"), "labelled ↓", scope="col", class_="corner")
    head = tag("tr", corner, *(tag("th", tag("span", label), scope="col", class_="turned") for label in labels))
    rows = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            *(_cell(counts, shares, row, column, unit) for column in range(len(labels))),
        )
        for row, label in enumerate(labels)
    ]
    number = "the share of the row's pixels, in per cent" if unit == "pixels" else f"a number of {unit}"
    said = f"A row is a labelled class, a column what the model answered, each cell {number}: right on the diagonal."
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="matrix", aria_describedby="matrix")
    return joined(tag("p", said, id="matrix", class_="hint"), tag("div", table, class_="wide"))


def _cell(counts: Counts, shares: npt.NDArray[np.float64], row: int, column: int, unit: str) -> Markup:
    count, share = int(counts[row, column]), float(shares[row, column])
    if not count:
        return tag("td", "·", class_="none")
    shown = f"{100 * share:.1f}" if unit == "pixels" else str(count)
    kind = "right" if row == column else "wrong"
    return tag("td", shown, class_=kind, style=f"--share:{share:.3f}")


def _worst(confusion: Confusion, occurring: int) -> Markup:
    """Return the worst of *confusion*, in which *occurring* classes occur."""
    mistakes, unit = confusion.mistakes, confusion.unit
    if not mistakes:
        return tag("p", f"None of the {occurring} classes was taken for another.")
    shown = mistakes[:MOST_PAIRS]
    numeric = (unit, "of the class")
    names = ("labelled", "answered", *numeric)
    head = tag(
        "tr",
        *(tag("th", name, scope="col", class_="number" if name in numeric else None) for name in names),
        tag("th", "share", scope="col", class_="rest"),
    )
    rows = [
        tag(
            "tr",
            tag("th", one.labelled, scope="row"),
            tag("td", one.answered),
            tag("td", f"{one.count:,}", class_="number"),
            tag("td", f"{one.share:.0%}", class_="number"),
            tag("td", bar(one.share), class_="bar"),
        )
        for one in shown
    ]
    said = f"The {len(shown)} most frequent of {len(mistakes):,} confusions among {occurring:,} classes that occur."
    if NOTHING in confusion.labels:
        said += f" {NOTHING} stands for an object without an answer, or for an answer where no object is."
    table = tag("table", tag("thead", head), tag("tbody", *rows), aria_describedby="pairs")
    return joined(tag("p", said, id="pairs", class_="hint"), tag("div", table, class_="wide"))
