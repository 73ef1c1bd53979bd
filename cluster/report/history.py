"""What the commits of a job tell of it: how fast it went and when, where the time went, which shards were slow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.output.records import Commit
from cluster.plan import Shard

__all__ = ["Done", "Slow", "Station", "Timeline", "elapsed_of", "slowest", "stages_of", "stations_of", "timeline_of"]

MOST_INTERVALS = 120
Done = tuple[Shard, Commit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """How fast a job went.

    Attributes:
        start: Of the first attempt that counts, in seconds since 1970.
        width: Of an interval, in seconds.
        rates: Rows a second in each interval, one after the other.
        rows: That were committed in all.
    """

    start: float
    width: float
    rates: tuple[float, ...]
    rows: int

    @property
    def seconds(self) -> float:
        """From the first attempt that counts to the last commit; pauses between runs of the job are in it."""
        return self.width * len(self.rates)

    @property
    def mean(self) -> float:
        """Rows a second, over all."""
        return self.rows / self.seconds


def elapsed_of(commit: Commit) -> float | None:
    """Return how long the attempt took that counts, in seconds; ``None`` if its commit is of a time before that."""
    if commit.started is None or commit.finished is None:
        return None
    return max(commit.finished - commit.started, 0.001)


def timeline_of(done: Sequence[Done]) -> Timeline | None:
    """Return how fast the job went whose commits are *done*; the rows of a shard are spread evenly over its time."""
    timed = [(c.started, c.started + spent, c.rows) for _, c in done if c.started and (spent := elapsed_of(c))]
    if not timed:
        return None
    start, end = min(begun for begun, _, _ in timed), max(ended for _, ended, _ in timed)
    count = min(MOST_INTERVALS, max(12, 2 * len(timed)))
    width = (end - start) / count
    rows = [0.0] * count
    for begun, ended, number in timed:
        first, last = (begun - start) / width, (ended - start) / width
        for place in range(int(first), min(int(last) + 1, count)):
            rows[place] += number * max(min(last, place + 1) - max(first, place), 0.0) / (last - first)
    return Timeline(
        start=start,
        width=width,
        rates=tuple(number / width for number in rows),
        rows=sum(number for _, _, number in timed),
    )


def stages_of(done: Sequence[Done]) -> dict[str, float]:
    """Return busy seconds by stage, over all workers of all runs."""
    seconds: Counter[str] = Counter()
    for _, commit in done:
        seconds.update(commit.seconds)
    return {stage: round(spent, 3) for stage, spent in seconds.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """What one machine did with one variant on one execution provider."""

    host: str
    variant: str
    provider: str
    onnxruntime: str
    workers: int
    shards: int
    rows: int
    seconds: float  # that attempts took, added up


def stations_of(done: Sequence[Done]) -> list[Station]:
    """Return who did the work, most rows first."""
    by_place: dict[tuple[str, ...], list[Commit]] = {}
    for _, commit in done:
        key = tuple(commit.ran_on.get(name, "") for name in ("host", "variant", "provider", "onnxruntime"))
        by_place.setdefault(key, []).append(commit)
    found = [
        Station(
            host=host,
            variant=variant,
            provider=provider,
            onnxruntime=ort,
            workers=len({commit.ran_on.get("pid") for commit in commits}),
            shards=len(commits),
            rows=sum(commit.rows for commit in commits),
            seconds=round(sum(elapsed_of(commit) or 0.0 for commit in commits), 3),
        )
        for (host, variant, provider, ort), commits in by_place.items()
    ]
    return sorted(found, key=lambda station: (-station.rows, station.host, station.provider))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """A shard, and how long it took; *stage* is where most of its busy time went."""

    shard: str  # its id and what it is of
    rows: int
    seconds: float
    stage: str
    host: str
    provider: str


def slowest(done: Sequence[Done], most: int = 10) -> list[Slow]:
    """Return the shards that took longest, the slowest first."""
    timed = [(spent, shard, commit) for shard, commit in done if (spent := elapsed_of(commit)) is not None]
    timed.sort(key=lambda one: (-one[0], one[1].id))
    return [
        Slow(
            shard=str(shard),
            rows=commit.rows,
            seconds=round(spent, 3),
            stage=max(commit.seconds, key=lambda stage: commit.seconds[stage], default=""),
            host=commit.ran_on.get("host", ""),
            provider=commit.ran_on.get("provider", ""),
        )
        for spent, shard, commit in timed[:most]
    ]
