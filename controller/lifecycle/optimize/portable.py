"""A graph optimized for wherever it will run: step after step, each kept only if it earns its place.

Rules:
    * A step is kept only if the graph still passes `controller.lifecycle.gate.checks.check_graph`, gives what the graph
      gave before any step (`controller.lifecycle.gate.parity`), did not grow, and has fewer nodes or fewer bytes.
    * A thousandth of the bytes, which other names may weigh, is neither growth nor gain.
    * A step that breaks a model is left out, and why is said; it is never a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import onnx

from controller.errors import ExportError
from controller.lifecycle.evaluation.evaluate import measure_latency
from controller.lifecycle.gate.checks import check_graph
from controller.lifecycle.gate.parity import output_difference
from controller.lifecycle.optimize.steps import STEPS, Step, count_nodes, foreign_operators, with_facts_of
from runtime.errors import VedetteError
from runtime.manifest import CustomOps
from runtime.session import Session

__all__ = ["Optimized", "Size", "StepReport", "optimize_graph"]

REASON = 300  # characters of a tool's own words
LARGEST = 2**31 - 1  # bytes: what protobuf can write
NAMES = 1e-3  # of the bytes

Array = npt.NDArray[Any]
MakeBatches = Callable[[Session], Sequence[Array]]
"""Gives what a graph, on which the session is, is compared with; the smallest batch first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a graph is."""

    nodes: int
    bytes: int

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Size:
        """Measure *model*."""
        return cls(nodes=count_nodes(model), bytes=model.ByteSize())

    def exceeds(self, other: Size) -> bool:
        """Whether this is larger than *other* in any way that counts."""
        return self.nodes > other.nodes or self.bytes > other.bytes * (1 + NAMES)

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.2f} MB" if self.bytes >= 1e6 else f"{self.bytes / 1e3:.1f} kB"
        return f"{self.nodes} nodes in {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What came of a step.

    Attributes:
        step: Its name.
        kept: Whether what it gave is in the result.
        broke: Whether it was left out because it failed, or broke the graph.
        said: Why it was left out; empty if it was kept.
        size: Of what it gave; ``None`` if it gave nothing.
        latency_ms: Of that, one picture on one thread; ``None``: not measured.
    """

    step: str
    kept: bool
    broke: bool = False
    said: str = ""
    size: Size | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """A graph after all steps.

    Attributes:
        model: The result; the graph as it was if no step was kept.
        before: Its size before.
        steps: What came of each.
        before_ms: As `StepReport.latency_ms`.
    """

    model: onnx.ModelProto
    before: Size
    steps: tuple[StepReport, ...]
    before_ms: float | None = None

    @property
    def after(self) -> Size:
        """The size of the result."""
        return next((one.size for one in reversed(self.steps) if one.kept and one.size), self.before)

    @property
    def after_ms(self) -> float | None:
        """The latency of the result."""
        return next((one.latency_ms for one in reversed(self.steps) if one.kept), self.before_ms)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person who imports should know."""
        kept = [one.step for one in self.steps if one.kept]
        broken = tuple(f"optimization step {one.step} was left out: {one.said}" for one in self.steps if one.broke)
        return (f"optimized by {', '.join(kept)}: {self.after} instead of {self.before}", *broken) if kept else broken


class _Rejected(Exception):  # noqa: N818  # an answer, not an error
    """Why what a step gave is not kept; *broke* if it is no longer the same graph."""

    def __init__(self, said: str, *, broke: bool) -> None:
        super().__init__(said)
        self.broke = broke


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """The graph before any step, and what it gives."""

    model: onnx.ModelProto
    path: Path
    custom_ops: Sequence[CustomOps]
    batches: Sequence[Array]
    expected: Sequence[Sequence[Array]]

    def accept(self, candidate: onnx.ModelProto, before: Size, path: Path) -> Size:
        """Write *candidate* to *path* and return its size, if it earns its place.

        Raises:
            _Rejected: It does not.
        """
        size = Size.of(candidate)
        if size.exceeds(before):
            raise _Rejected(f"the graph grew to {size}", broke=False)
        if not before.exceeds(size):
            raise _Rejected("nothing to gain", broke=False)
        if foreign_operators(candidate) != foreign_operators(self.model):
            raise _Rejected("it changed operators that are not ONNX's own", broke=True)
        onnx.save(candidate, path)
        try:
            session = check_graph(path, self.custom_ops)
            for batch, expected in zip(self.batches, self.expected, strict=True):
                for tensor, ours, theirs in zip(session.outputs, session.run(batch), expected, strict=True):
                    output_difference(tensor.name, len(batch), ours, theirs)
        except VedetteError as error:
            raise _Rejected(str(error)[:REASON], broke=True) from None
        return size


def optimize_graph(
    model: onnx.ModelProto,
    make_batches: MakeBatches,
    custom_ops: Sequence[CustomOps] = (),
    steps: Mapping[str, Step] = STEPS,
    *,
    timed: bool = False,
) -> Optimized:
    """Take *steps* with *model*, one after the other, and keep what earns its place.

    Args:
        model: A graph that passes the gate.
        make_batches: Gives what to compare on.
        custom_ops: Libraries of operators that it needs.
        steps: By name.
        timed: Measure the latency after each step that gave a usable graph, too.

    Raises:
        ExportError: *model* itself does not pass `check_graph`.
        ModelError: It does not run.
    """
    before = Size.of(model)
    if before.bytes > LARGEST:
        raise ExportError(f"a graph of {before.bytes / 1e9:.1f} GB is not optimized; at most 2 GB are")
    with TemporaryDirectory(prefix="vedette-optimize-") as scratch:
        path = Path(scratch) / "before.onnx"
        onnx.save(model, path)
        session = check_graph(path, custom_ops)
        batches = make_batches(session)
        expected = [session.run(batch) for batch in batches]
        original = _Original(model=model, path=path, custom_ops=custom_ops, batches=batches, expected=expected)
        optimized = _take(original, steps, before, Path(scratch))
        return _timed(optimized, original, Path(scratch)) if timed else optimized


def _take(original: _Original, steps: Mapping[str, Step], before: Size, scratch: Path) -> Optimized:
    current, size = original.model, before
    reports = []
    for name, step in steps.items():
        given: Size | None = None
        try:
            candidate = _given(step, current)
            given = Size.of(candidate)
            size = original.accept(candidate, size, scratch / f"{name}.onnx")
            current = candidate
            reports.append(StepReport(step=name, kept=True, size=size))
        except _Rejected as rejected:
            reports.append(
                StepReport(
                    step=name, kept=False, broke=rejected.broke, said=" ".join(str(rejected).split()), size=given
                )
            )
    return Optimized(model=current, before=before, steps=tuple(reports))


def _given(step: Step, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what *step* makes of *model*, with the facts of *model*.

    Raises:
        _Rejected: It fails.
    """
    try:
        return with_facts_of(model, step(model))
    except Exception as error:  # the optimizers raise whatever their passes raise
        raise _Rejected(f"it failed: {type(error).__name__}: {str(error)[:REASON]}", broke=True) from error


def _timed(optimized: Optimized, original: _Original, scratch: Path) -> Optimized:
    paths = {"": original.path} | {one.step: scratch / f"{one.step}.onnx" for one in optimized.steps if one.kept}
    latency = measure_latency(paths, original.batches[0], original.custom_ops)
    steps = tuple(replace(one, latency_ms=latency.get(one.step)) for one in optimized.steps)
    return replace(optimized, steps=steps, before_ms=latency[""])
