"""What ``report.html`` says, section by section; `SECTIONS` has the order."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from cluster.report.classes import SCORE_BINS, Classes
from cluster.report.examples import EACH
from cluster.report.facts import ReportFacts
from runtime.evaluation.titles import title_of
from runtime.page import fact_list, hint, page, section, tiles
from runtime.page.charts import bar_table, duration, rate_chart, share_chart
from runtime.page.markup import Markup, joined, tag

if TYPE_CHECKING:
    from cluster.evaluation import Evaluation

__all__ = ["render_report"]

MOST_CLASSES = 20  # shown at once
MOST_FILES = 200
REASONS = {
    "empty": "no bytes at all",
    "not_an_image": "bytes of no image format",
    "truncated": "ends early, or is damaged",
    "too_large": "more pixels or bytes than are decoded",
    "unsupported": "a form of image that is not decoded",
    "missing": "null, or the file or URL is not there",
    "crashed_worker": "a process died of it",
}
"""By reason code of `runtime.errors.ImageReason`: what it means."""

COUNTS = {"support", "pixels"}  # among the figures of a class; the others are shares


def render_report(facts: ReportFacts) -> bytes:
    """Return the report of *facts*, UTF-8 HTML that needs nothing but a browser."""
    return page(
        f"{facts.summary.model}: batch report",
        header=_header(facts),
        sections=(part for one in SECTIONS if (part := one(facts))),
        footer=tag("p", f"{_pinned(facts)} · {_when(facts.ended)}"),
    )


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%d %B %Y, %H:%M:%S} UTC"


def _header(facts: ReportFacts) -> Markup:
    summary, rows = facts.summary, facts.summary.rows
    whole = facts.timeline.seconds if facts.timeline else summary.elapsed_seconds
    files = len(facts.record.files)
    said = joined(
        f"{rows['in']:,} row{'s' * (rows['in'] != 1)} of {files:,} file{'s' * (files != 1)}, "
        f"each answered or set aside once, in {duration(whole)}; ended {_when(facts.ended)}."
    )
    figures = [("rows answered", f"{rows['out']:,}"), ("rows set aside", f"{rows['quarantined']:,}")]
    figures += [("rows filtered out", f"{rows['filtered']:,}")] if rows["filtered"] else []
    figures.append(("rows a second", f"{facts.timeline.mean if facts.timeline else summary.rows_per_second:,.1f}"))
    figures.append(("shards", f"{summary.shards['total']:,}"))
    return joined(
        tag("p", "Batch report", class_="kicker"),
        tag("h1", *_titles(facts.record.models)),
        tag("p", said, class_="lead"),
        tiles(figures),
    )


def _titles(models: Mapping[str, str]) -> Iterator[Markup | str]:
    for place, (name, _, number) in enumerate(model.partition("@") for model in models):
        yield f"{', ' if place else ''}{name}"
        yield tag("span", f"@{number}", class_="version")


def _pinned(facts: ReportFacts) -> str:
    return " · ".join(f"{model} · manifest {digest[:12]}" for model, digest in facts.record.models.items())


def _throughput(facts: ReportFacts) -> Markup | None:
    line = facts.timeline
    if line is None:
        return None
    said = (
        f"From {_when(line.start)}, when the first shard began, to the last commit, {duration(line.seconds)} later. "
        f"The dashed line is the mean, {line.mean:,.1f} rows/s; the rows of a shard are spread evenly over its time."
    )
    return section("Throughput", hint(said), rate_chart(line.rates, line.width, unit="rows/s", mean=line.mean))


def _stages(facts: ReportFacts) -> Markup | None:
    if not any(facts.stages.values()):
        return None
    rows = max(facts.summary.rows["in"], 1)
    said = "Busy seconds of all workers by stage, added up; stages overlap, so they are more than the clock's."
    shown = share_chart(
        list(facts.stages.items()), lambda spent: f"{duration(spent)} · {1000 * spent / rows:.3g} ms a row"
    )
    return section("Time by stage", hint(said), shown)


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> Markup:
    """Return *rows* under *columns* of (name, whether it is numbers)."""
    head = tag("tr", *(tag("th", name, scope="col", class_="number" if number else None) for name, number in columns))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(
                tag("td", cell, class_="number" if number else None)
                for cell, (_, number) in zip(row[1:], columns[1:], strict=True)
            ),
        )
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")


def _stations(facts: ReportFacts) -> Markup | None:
    if not facts.stations:
        return None
    columns = [(name, False) for name in ("machine", "variant", "execution provider")]
    columns += [(name, True) for name in ("workers", "shards", "rows", "rows/s of a worker")]
    rows = [
        (
            one.host or "-",
            one.variant,
            f"{one.provider} ({one.onnxruntime})",
            f"{one.workers:,}",
            f"{one.shards:,}",
            f"{one.rows:,}",
            f"{one.rows / one.seconds:,.1f}" if one.seconds else "-",
        )
        for one in facts.stations
    ]
    decoded = ", ".join(f"{count:,} by {name}" for name, count in facts.summary.decoders.items())
    return section(
        "Who did the work", _table(columns, rows), *([hint(f"Images decoded: {decoded}.")] if decoded else [])
    )


def _evaluation(facts: ReportFacts) -> Markup | None:
    judged = facts.summary.evaluations
    parts = [(tag("h3", one.model) if len(judged) > 1 else None, *_judged(one)) for one in judged]
    return section("Evaluation", *filter(None, chain(*parts))) if parts else None


def _judged(judged: Evaluation) -> list[Markup]:
    said = f"Against the column {judged.column}: {judged.judged:,} rows have a label, {judged.unlabelled:,} have none."
    parts = [hint(said)]
    if judged.metrics:
        parts.append(tiles((title_of(name).name, title_of(name).show(value)) for name, value in judged.metrics.items()))
    parts += [hint(f"{note[:1].upper()}{note[1:].rstrip('.')}.") for note in judged.notes]
    if judged.classes:
        names = [name for name in judged.classes[0] if name != "label"]
        rows = [(str(one["label"]), *(_figure_of(name, one[name]) for name in names)) for one in judged.classes]
        columns = [("class", False), *((name.replace("_", " "), True) for name in names)]
        parts.append(tag("details", tag("summary", f"{len(rows):,} classes"), _table(columns, rows)))
    return parts


def _figure_of(name: str, value: float | None) -> str:
    """Return the figure *name* of a class: a share, or a count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if name in COUNTS else f"{value:.4f}"


def _classes(facts: ReportFacts) -> Markup | None:
    shown = [one for one in facts.classes if one.counts]
    parts = [(tag("h3", one.model) if len(shown) > 1 else None, *_counted(one)) for one in shown]
    return section("Classes", *filter(None, chain(*parts))) if parts else None


def _counted(classes: Classes) -> list[Markup]:
    whole, ranked = sum(classes.counts.values()), list(classes.counts.items())
    said = f"{whole:,} {classes.unit} in {len(ranked):,} class{'es' * (len(ranked) != 1)}, the most frequent first."
    parts = [hint(said), bar_table(("class", classes.unit), ranked[:MOST_CLASSES], whole=whole)]
    if rest := ranked[MOST_CLASSES:]:
        more = bar_table(("class", classes.unit), rest, whole=whole)
        parts.append(tag("details", tag("summary", f"{len(rest):,} more classes"), more))
    if any(classes.scores):
        width = 1 / SCORE_BINS
        binned = [
            (f"{place * width:.2f} to {(place + 1) * width:.2f}", count) for place, count in enumerate(classes.scores)
        ]
        shown = bar_table(("score", classes.unit), binned[::-1], whole=sum(classes.scores))
        parts.append(tag("details", tag("summary", "How sure the answers are"), shown))
    return parts


def _bad_rows(facts: ReportFacts) -> Markup | None:
    reasons = facts.summary.bad_rows
    if not reasons:
        return None
    ranked = sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    named = [(f"{reason}: {REASONS[reason]}" if reason in REASONS else reason, count) for reason, count in ranked]
    share = sum(reasons.values()) / max(facts.summary.rows["in"], 1)
    said = (
        f"{sum(reasons.values()):,} rows ({share:.2%}) have no usable image. They are in quarantine/ with file, row, "
        f"reason and detail; up to {EACH} of each reason are below, with what can be seen of them."
    )
    figures = [_figure(one.row.reason, one.row, one.jpeg) for one in facts.examples]
    return section(
        "Bad rows",
        hint(said),
        bar_table(("reason", "rows"), named, whole=sum(reasons.values()), kind="bad"),
        tag("div", *figures, class_="gallery small"),
    )


def _figure(reason: str, row: Any, jpeg: bytes) -> Markup:
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
    where = f"{row.source_file.rpartition('/')[2] or row.source_file}, row {row.source_row}"
    picture = (
        tag("img", src=source, alt=where, loading="lazy") if jpeg else tag("div", "nothing to see", class_="blank")
    )
    said = (tag("span", reason, class_="badge bad"), tag("br"), where, tag("div", row.detail, class_="why"))
    return tag("figure", picture, tag("figcaption", *said, title=row.source_file))


def _slow(facts: ReportFacts) -> Markup | None:
    if len(facts.slow) < 2:
        return None
    columns = [(name, number) for name, number in (("shard", False), ("rows", True), ("time", True), ("rows/s", True))]
    columns += [("mostly", False), ("machine", False)]
    rows = [
        (one.shard, f"{one.rows:,}", duration(one.seconds), f"{one.rows / one.seconds:,.1f}", one.stage, one.host)
        for one in facts.slow
    ]
    return section("Slowest shards", _table(columns, rows))


def _faults(facts: ReportFacts) -> Markup | None:
    said = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in facts.summary.faults.items()]
    notes = [f"Tries that failed in the last run, by kind: {', '.join(said)}."] if said else []
    resumed = facts.summary.shards["resumed"]
    notes += [f"{resumed:,} shards were committed by earlier runs of this job."] if resumed else []
    notes += [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in (*facts.summary.remarks, *facts.notes)]
    return section("Notes", tag("ul", *(tag("li", note) for note in notes))) if notes else None


def _lineage(facts: ReportFacts) -> Markup:
    record = facts.record
    options = [(name, _shown(value)) for name, value in record.options.items() if value not in (None, [], "")]
    rows = [
        *((f"manifest SHA-256 of {model}", digest) for model, digest in record.models.items()),
        ("input", record.input),
        ("output", facts.summary.output),
        *((f"{name} version", value) for name, value in facts.versions.items() if value),
        *((f"option: {name}", value) for name, value in options),
    ]
    files = list(record.files.items())
    listed = [(path, etag, f"{count:,}") for path, (etag, count) in files[:MOST_FILES]]
    said = f"{len(files):,} input file{'s' * (len(files) != 1)}"
    said += f", the first {MOST_FILES} of them; _job.json has all" if len(files) > MOST_FILES else ""
    table = _table([("file", False), ("etag", False), ("rows", True)], listed)
    return section("Lineage", fact_list(rows), tag("details", tag("summary", said), table))


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


SECTIONS: tuple[Callable[[ReportFacts], Markup | None], ...] = (
    _throughput,
    _stages,
    _evaluation,
    _classes,
    _bad_rows,
    _stations,
    _slow,
    _faults,
    _lineage,
)
"""What a report says, in order; a section that has nothing to say is ``None``."""
