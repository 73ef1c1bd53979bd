"""What a batch job says when it is through: one summary, as JSON and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.output.partitions import Value
from cluster.output.records import Commit, OutputManifest
from runtime.terminal import table

if TYPE_CHECKING:
    from cluster.evaluation import Evaluation

__all__ = ["Summary", "Tally"]

RAN_ON = (
    *("variant", "provider", "onnxruntime"),
    *("batch", "graph", "host_memory", "decoder", "decode_actors", "fallback"),
)
"""Of `Commit.ran_on`, what tells runs apart."""


@dataclass(slots=True)
class Tally:
    """What this run of a job did, commit by commit; what earlier runs did is not in it, but for what the job bounds.

    Attributes:
        rows: That were processed.
        seconds: Busy seconds by stage, over all workers.
        bad: Quarantined rows of the whole job.
        partitions: Values that the rows of the whole job are partitioned by.
        committed: Shards that this run committed.
        elsewhere: Shards that another driver committed meanwhile, or a worker that died before it could say so.
        resumed: Shards that were committed before.
        ran_on: `RAN_ON` of this run's commits; from the batch on each may be empty: see `ShardWorker.ran_on`.
        decoders: Images that each decoder read.
        settings: What each worker (by host and process) found out to be fast, or was told: batch size and threads.
        happened: Failures of tries by kind, and second attempts (`cluster.dispatch.loop.dispatch`).
        remarks: What is to be known of the workers.
        up: When workers could begin to start, Ray being up; by `time.monotonic`.
        first: When the first commit of this run was heard of.
    """

    rows: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    partitions: set[Value] = field(default_factory=set)
    committed: int = 0
    elsewhere: int = 0
    resumed: int = 0
    ran_on: set[tuple[str, ...]] = field(default_factory=set)
    decoders: Counter[str] = field(default_factory=Counter)
    settings: dict[tuple[str, str], str] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    up: float | None = None
    first: float | None = None

    @property
    def until_first(self) -> float | None:
        """Seconds from `up` to `first`."""
        return None if self.up is None or self.first is None else round(self.first - self.up, 3)

    def resume(self, commits: Iterable[Commit]) -> None:
        """Count what earlier runs committed."""
        for commit in commits:
            self.resumed += 1
            self.bad.update(commit.reasons)
            self.partitions |= commit.partitions

    def add(self, commit: Commit, *, ours: bool) -> None:
        """Count a *commit* that happened while this run was running."""
        self.bad.update(commit.reasons)
        self.partitions |= commit.partitions
        if not ours:
            self.elsewhere += 1
            return
        self.committed += 1
        self.rows += commit.rows
        self.seconds.update(commit.seconds)
        self.decoders.update(commit.decoders)
        self.settings[commit.ran_on.get("host", ""), commit.ran_on.get("pid", "")] = commit.ran_on.get("settings", "-")
        self.ran_on.add(tuple(commit.ran_on.get(key, "") for key in RAN_ON))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A finished job.

    Attributes:
        model: ``NAME@VERSION``; several with commas between them.
        output: Where the rows are.
        rows: In, out, quarantined and filtered, of the whole job.
        bad_rows: Quarantined rows by reason.
        shards: In all, committed by this run, elsewhere meanwhile (see `Tally`), and before.
        processed_rows: Rows that this run processed.
        rows_per_second: Of this run, from the start of its first worker to its last commit.
        seconds: Busy seconds by stage, added up over this run's workers.
        elapsed_seconds: Wall clock of this run, all included.
        first_commit_seconds: Of this run, from when its workers could begin to start (Ray was up) to its first commit;
            ``None`` if it committed nothing.
        workers: How many this run had.
        ran_on: Variant, execution provider and ONNX Runtime version of this run; the batch that the graph takes, if it
            takes only one; on a device whether its graph is captured and host memory page-locked; why the provider is
            not the preferred one, if it is not.
        decoders: Images of this run by what decoded them.
        settings: Workers of this run by what they found out to be fast, or were told: batch size and threads.
        faults: Tries of shards that failed in this run, by kind, and second attempts at slow ones.
        remarks: What is to be known of the workers.
        evaluations: How right the answers of each model are, if that was asked for.
    """

    model: str
    output: str
    rows: Mapping[str, int]
    bad_rows: Mapping[str, int]
    shards: Mapping[str, int]
    processed_rows: int
    rows_per_second: float
    seconds: Mapping[str, float]
    elapsed_seconds: float
    first_commit_seconds: float | None
    workers: int
    ran_on: tuple[str, ...]
    decoders: Mapping[str, int]
    settings: Mapping[str, int]
    faults: Mapping[str, int]
    remarks: tuple[str, ...]
    evaluations: tuple[Evaluation, ...] = ()

    @classmethod
    def of(
        cls,
        manifest: OutputManifest,
        tally: Tally,
        *,
        output: str,
        workers: int,
        working: float,
        elapsed: float,
        evaluations: Iterable[Evaluation] = (),
    ) -> Summary:
        """Return the summary of a job that ended with *manifest*.

        Args:
            manifest: Of the output.
            tally: What this run did.
            output: Where the rows are.
            workers: How many there were.
            working: Seconds that shards were running.
            elapsed: Seconds in all.
            evaluations: How right the answers of each model are.
        """
        return cls(
            model=manifest.model,
            output=output,
            rows=manifest.rows,
            bad_rows=manifest.reasons,
            shards={
                "total": tally.committed + tally.elsewhere + tally.resumed,
                "committed": tally.committed,
                "elsewhere": tally.elsewhere,
                "resumed": tally.resumed,
            },
            processed_rows=tally.rows,
            rows_per_second=round(tally.rows / working, 1) if working > 0 else 0.0,
            seconds={stage: round(spent, 3) for stage, spent in tally.seconds.items()},
            elapsed_seconds=round(elapsed, 3),
            first_commit_seconds=tally.until_first,
            workers=workers,
            ran_on=tuple(
                ", ".join([f"{variant} on {provider} ({ort})", *filter(None, remarks)])
                for variant, provider, ort, *remarks in sorted(tally.ran_on)
            ),
            decoders=dict(sorted(tally.decoders.items())),
            settings=dict(sorted(Counter(tally.settings.values()).items())),
            faults=dict(sorted(tally.happened.items())),
            remarks=tuple(tally.remarks),
            evaluations=tuple(evaluations),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)

    def _first(self) -> str:
        return "" if self.first_commit_seconds is None else f", the first after {self.first_commit_seconds:.1f} s"

    def text(self) -> str:
        """Return it for people."""
        rows = ", ".join(f"{count} {name}" for name, count in self.rows.items())
        shards = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.shards.items())
        facts = [
            ("model", self.model),
            ("output", self.output),
            ("rows", rows),
            ("shards", shards),
            ("this run", f"{self.processed_rows} rows in {self.elapsed_seconds:.1f} s{self._first()}"),
            ("speed", f"{self.rows_per_second:.1f} rows/s with {self.workers} worker(s)"),
            ("busy seconds", ", ".join(f"{stage} {spent:.1f}" for stage, spent in self.seconds.items()) or "-"),
            ("ran", "; ".join(self.ran_on) or "nothing: all was there"),
            ("decoded", ", ".join(f"{count} by {name}" for name, count in self.decoders.items()) or "-"),
        ]
        facts += [("settings", f"{setting} ({count} process(es))") for setting, count in self.settings.items()]
        facts += (
            [("faults", ", ".join(f"{count} {kind}" for kind, count in self.faults.items()))] if self.faults else []
        )
        for one in self.evaluations:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in one.metrics.items())
            whose = f"{one.model}: " if len(self.evaluations) > 1 else ""
            facts.append(("evaluation", f"{whose}{figures or '-'} on {one.judged} labelled rows"))
            facts += [("", note) for note in one.notes]
        facts += [("note", remark) for remark in self.remarks]
        text = table(("batch job", ""), facts)
        if self.bad_rows:
            text += "\n\n" + table(("bad rows", "number"), list(self.bad_rows.items()))
        return text
