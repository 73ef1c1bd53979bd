"""Where a graph's time goes: ONNX Runtime's own profile, summed up by operator and by node.

Rules:
    * Only the kernels' own time is counted; what lies between them is given as the rest of the run.
    * Runs before the session was warm are left out.
    * The trace is kept: Chrome's trace format, for ``chrome://tracing`` or Perfetto.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from controller.lifecycle.look.target import Target, noise
from runtime.errors import UsageError
from runtime.session import Session, SessionOptions
from runtime.terminal import table

__all__ = ["Profile", "Share", "profile", "summed_up"]

WARM_UPS = 3
KERNEL = "_kernel_time"
MOST_SHOWN = 15  # nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What an operator, or a node, takes of a run.

    Attributes:
        name: Of the operator or the node.
        operator: Of the node; the operator itself.
        provider: Execution provider that runs it; several are joined.
        calls: In a run.
        ms: In a run.
        share: Of the time of all kernels.
    """

    name: str
    operator: str
    provider: str
    calls: float
    ms: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the time of one graph goes.

    Attributes:
        target: Which graph.
        runs: That the figures are means of.
        run_ms: A run in all, profiling included.
        kernels_ms: Of it, in kernels.
        operators: By operator, the longest first.
        nodes: By node, the longest first.
        trace: File in Chrome's trace format.
    """

    target: str
    runs: int
    run_ms: float
    kernels_ms: float
    operators: tuple[Share, ...]
    nodes: tuple[Share, ...]
    trace: Path

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """Return it for people."""
        rest = max(0.0, self.run_ms - self.kernels_ms)
        head = (
            f"{self.target}: {self.run_ms:.2f} ms a run with profiling on, {self.kernels_ms:.2f} ms in kernels, "
            f"{rest:.2f} ms between them"
        )
        headers = ("operator", "provider", "calls", "ms", "share")
        operators = [(s.name, s.provider, f"{s.calls:g}", f"{s.ms:.3f}", f"{s.share:.1%}") for s in self.operators]
        nodes = [(s.name, s.operator, f"{s.ms:.3f}", f"{s.share:.1%}") for s in self.nodes[:MOST_SHOWN]]
        tables = [table(headers, operators), table(("slowest nodes", "operator", "ms", "share"), nodes)]
        return "\n\n".join([head, *tables, f"trace: {self.trace} (open it in chrome://tracing or ui.perfetto.dev)"])


def profile(target: Target, provider: str, out: Path, *, batch: int = 1, threads: int = 0, runs: int = 20) -> Profile:
    """Run *target* on random pictures with ONNX Runtime's profiler, and keep the trace as *out*.

    Args:
        target: The graph.
        provider: Reference of the execution provider.
        out: File to write.
        batch: Pictures in a run.
        threads: Within an operator; 0: one a core.
        runs: To take the mean of.

    Raises:
        UsageError: A number is out of range.
        VedetteError: The session cannot be built, or does not run.
    """
    for what, number, least in (("--batch", batch, 1), ("--threads", threads, 0), ("--runs", runs, 1)):
        if number < least:
            raise UsageError(f"{what} is {number}; expected {least} or more")
    with TemporaryDirectory(prefix="vedette-profile-") as scratch:
        options = SessionOptions(intra_op_threads=threads, profiling=Path(scratch) / "ort")
        session = Session(target.path, provider, options, custom_ops=target.custom_ops)
        pictures = noise(session, batch)
        for _ in range(WARM_UPS + runs):
            session.run(pictures)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(session.end_profiling(), out)
    events = json.loads(out.read_text(encoding="utf-8"))
    return _profile(str(target), events, out)


def _profile(target: str, events: Sequence[Mapping[str, Any]], out: Path) -> Profile:
    whole = sorted((one for one in events if one.get("name") == "model_run"), key=lambda one: one["ts"])[WARM_UPS:]
    begins, runs = whole[0]["ts"], len(whole)
    kernels = [
        one for one in events if one.get("cat") == "Node" and one["name"].endswith(KERNEL) and one["ts"] >= begins
    ]
    return Profile(
        target=target,
        runs=runs,
        run_ms=sum(one["dur"] for one in whole) / runs / 1000,
        kernels_ms=sum(one["dur"] for one in kernels) / runs / 1000,
        operators=summed_up(((one["args"]["op_name"], one) for one in kernels), runs),
        nodes=summed_up(((one["name"].removesuffix(KERNEL), one) for one in kernels), runs),
        trace=out,
    )


def summed_up(kernels: Iterable[tuple[str, Mapping[str, Any]]], runs: int) -> tuple[Share, ...]:
    """Return what each name takes of a run, the longest first.

    Args:
        kernels: (name, event of the profile: ``dur`` in microseconds, ``args`` with ``op_name`` and ``provider``).
        runs: That the events are of.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, event in kernels:
        by_name[name].append(event)
    total = sum(event["dur"] for events in by_name.values() for event in events) or 1
    shares = [_share(name, events, runs, total) for name, events in by_name.items()]
    return tuple(sorted(shares, key=lambda one: -one.ms))


def _share(name: str, events: Sequence[Mapping[str, Any]], runs: int, total: float) -> Share:
    spent = sum(event["dur"] for event in events)
    return Share(
        name=name,
        operator=events[0]["args"]["op_name"],
        provider=", ".join(
            dict.fromkeys(event["args"]["provider"].removesuffix("ExecutionProvider") for event in events)
        ),
        calls=len(events) / runs,
        ms=spent / runs / 1000,
        share=spent / total,
    )
