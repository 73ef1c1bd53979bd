"""The search: up the ladder from a plain quantization until it is near enough to fp32, or time is over.

Rules:
    * Every attempt is judged on calibration images by `controller.lifecycle.quantization.recovery.judge`. Labelled data
      is not looked at here: it accepts or rejects what comes out, afterwards.
    * What helped is kept, and the next rung begins from there. What costs speed must bring `WORTH` dB and stay above
      the least speed; what costs none must bring `NOTICED` dB.
    * A rung may use its share of the time that is left, divided by the rungs that are left: each has its turn. Time is
      looked at before each attempt; one that has begun is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from controller.errors import ExportError
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.quantize import Scheme
from controller.lifecycle.quantization.recovery.judge import Fidelity, Judge
from controller.lifecycle.quantization.recovery.ladder import RUNGS, Attempt, Rung
from runtime.errors import ModelError
from runtime.terminal import progress, table

__all__ = ["AUTO", "Goal", "Recovery", "Step", "recover"]

AUTO = "auto"  # the method that is nearest to fp32
FIRST = "minmax"  # what a search begins with
KEPT = "kept"
NOTICED, WORTH = 0.1, 0.5  # dB
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a search is for, and when it ends.

    Attributes:
        method: Of the ranges, out of `controller.lifecycle.quantization.calibration.methods.METHODS`; ``auto``: all are
            tried.
        sqnr: That is near enough, dB.
        budget: Processor seconds after the plain quantization: a busy machine takes longer, and finds the same.
        least_speedup: Against fp32 on this machine's CPU; ``None``: speed is not measured, where the graph is meant for
            other devices.
        rungs: That are climbed.
    """

    method: str = AUTO
    sqnr: float = 25.0
    budget: float = 120.0
    least_speedup: float | None = 1.0
    rungs: tuple[Rung, ...] = RUNGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one attempt gave.

    Attributes:
        rung: Its rung.
        what: In words.
        fidelity: How near to fp32; ``None`` if it failed.
        speedup: Against fp32; ``None`` if it was not measured.
        seconds: That it took.
        verdict: ``kept``, or why not.
    """

    rung: str
    what: str
    fidelity: Fidelity | None
    speedup: float | None
    seconds: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a search found.

    Attributes:
        model: The quantized graph.
        attempt: How it was made.
        fidelity: How near to fp32 it is.
        steps: What was tried, in order.
    """

    model: onnx.ModelProto
    attempt: Attempt
    fidelity: Fidelity
    steps: tuple[Step, ...]

    def metrics(self) -> dict[str, float]:
        """Return the figures for the manifest."""
        figures = {"sqnr_db": round(self.fidelity.sqnr, 2), "calibration_images": float(self.fidelity.images)}
        if self.fidelity.agreement is not None:
            figures["agreement_calibration"] = round(self.fidelity.agreement, 6)
        return figures

    def summary(self) -> str:
        """Return in a line how near it came, and by what."""
        agreement = self.fidelity.agreement
        same = f", the answer of fp32 on {agreement:.1%} of {self.fidelity.images} images" if agreement else ""
        kept = "; ".join(f"{step.rung}: {step.what}" for step in self.steps if step.verdict == KEPT)
        tried = f"{len(self.steps)} tried" if len(self.steps) > 1 else "at once"
        return f"signal to quantization noise {self.fidelity.sqnr:.1f} dB{same} ({tried}; {kept})"

    def table(self) -> str:
        """Return the steps as a table."""
        rows = [
            (
                step.rung,
                step.what,
                f"{step.fidelity.sqnr:.2f}" if step.fidelity else "-",
                f"{step.fidelity.agreement:.2%}" if step.fidelity and step.fidelity.agreement is not None else "-",
                f"{step.speedup:.2f}" if step.speedup is not None else "-",
                f"{step.seconds:.1f}",
                step.verdict,
            )
            for step in self.steps
        ]
        return table(("rung", "what", "SQNR dB", "as fp32", "speedup", "s", ""), rows)


def recover(calibration: Calibration, scheme: Scheme, goal: Goal, clock: Clock = time.process_time) -> Recovery:
    """Quantize the calibrated model by *scheme*, as near to fp32 as *goal* asks for.

    Args:
        calibration: Of the model, prepared.
        scheme: To begin with.
        goal: When it ends.
        clock: Seconds; by default of processor time, of all threads.

    Raises:
        ExportError: The model cannot be quantized at all.
        ModelError: It does not run.
        DatasetError: There are not enough usable images.
        UsageError: There is no such method.
    """
    search = _Search(Judge(calibration), goal, clock)
    method = FIRST if goal.method == AUTO else goal.method
    search.begin(Attempt(what=method, calibration=calibration, scheme=scheme, method=method))
    rungs = [rung for rung in goal.rungs if goal.method == AUTO or not rung.changes_method]
    with progress(len(rungs), "recovering accuracy", "rungs") as bar:
        for number, rung in enumerate(rungs):
            search.climb(rung, len(rungs) - number)
            bar.advance(1, sqnr=f"{search.best.fidelity.sqnr:.1f} dB")
    return search.best


class _Search:
    def __init__(self, judge: Judge, goal: Goal, clock: Clock) -> None:
        self._judge, self._goal, self._clock = judge, goal, clock
        self._until = 0.0
        self.best: Recovery

    def begin(self, plain: Attempt) -> None:
        started = self._clock()
        model = plain.build()
        fidelity = self._judge.fidelity(model)
        step = Step(
            rung="plain",
            what=plain.what,
            fidelity=fidelity,
            speedup=None,
            seconds=self._clock() - started,
            verdict=KEPT,
        )
        self.best = Recovery(model=model, attempt=plain, fidelity=fidelity, steps=(step,))
        self._until = self._clock() + self._goal.budget

    def climb(self, rung: Rung, left: int) -> None:
        """Try what *rung* has, beginning from the best so far, in one of *left* parts of the time that is left."""
        now = self._clock()
        until = now + (self._until - now) / left
        if self._is_over(until):
            return
        for attempt in rung.attempts(self.best.attempt):
            self._try(rung, attempt)
            if self._is_over(until):
                return

    def _is_over(self, until: float) -> bool:
        return self.best.fidelity.sqnr >= self._goal.sqnr or self._clock() >= until

    def _try(self, rung: Rung, attempt: Attempt) -> None:
        started = self._clock()
        fidelity, speedup, model = None, None, None
        try:
            model = attempt.build()
            fidelity = self._judge.fidelity(model)
            gain = fidelity.sqnr - self.best.fidelity.sqnr
            verdict = KEPT if gain >= (WORTH if rung.costs_speed else NOTICED) else f"{gain:+.2f} dB"
            if verdict == KEPT and rung.costs_speed and self._goal.least_speedup is not None:
                speedup = self._judge.speedup(model)
                if speedup < self._goal.least_speedup:
                    verdict = f"too slow: {speedup:.2f} times fp32, at least {self._goal.least_speedup:g} are wanted"
        except (ExportError, ModelError) as error:
            verdict = f"failed: {error}"
        step = Step(
            rung=rung.name,
            what=attempt.what,
            fidelity=fidelity,
            speedup=speedup,
            seconds=self._clock() - started,
            verdict=verdict,
        )
        steps = (*self.best.steps, step)
        if verdict == KEPT and model is not None and fidelity is not None:
            self.best = Recovery(model=model, attempt=attempt, fidelity=fidelity, steps=steps)
        else:
            self.best = replace(self.best, steps=steps)
