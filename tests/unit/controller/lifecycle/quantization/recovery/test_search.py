"""The search: what is kept, what is dropped, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx
import pytest
from exact_int8 import exact_int8

from controller.errors import ExportError
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.quantize import Scheme
from controller.lifecycle.quantization.recovery.judge import Judge
from controller.lifecycle.quantization.recovery.ladder import RUNGS, Attempt, Rung
from controller.lifecycle.quantization.recovery.search import Goal, recover
from runtime.errors import UsageError

PER_TENSOR = Scheme(per_channel=False)
UNREACHABLE = Goal(sqnr=199, budget=1e9, least_speedup=None)


@pytest.fixture(scope="module")
def climbed(uneven: Calibration) -> object:
    return recover(uneven, PER_TENSOR, UNREACHABLE)


def test_whole_ladder_brings_more_than_any_single_rung(uneven: Calibration, climbed: object) -> None:
    plain, *rest = climbed.steps
    assert plain.rung == "plain"
    assert {step.rung for step in rest} == {rung.name for rung in RUNGS} - {"rounding"}  # all is in fp32 by then
    assert climbed.fidelity.sqnr > plain.fidelity.sqnr + 6
    judged_again = Judge(uneven).fidelity(climbed.model)
    assert judged_again.sqnr == pytest.approx(climbed.fidelity.sqnr, abs=0.01)
    assert climbed.metrics()["sqnr_db"] == pytest.approx(climbed.fidelity.sqnr, abs=0.01)


@exact_int8
def test_rungs_that_cost_no_speed_bring_something_each(uneven: Calibration) -> None:
    free = tuple(rung for rung in RUNGS if not rung.costs_speed)
    found = recover(uneven, Scheme(), replace(UNREACHABLE, rungs=free))
    assert {step.rung for step in found.steps[1:]} == {rung.name for rung in free} - {"per-channel weights"}  # they are
    assert "equalization" in {step.rung for step in found.steps if step.verdict == "kept"}


def test_what_is_kept_never_loses(climbed: object) -> None:
    kept = [step.fidelity.sqnr for step in climbed.steps if step.verdict == "kept"]
    assert kept == sorted(kept)
    assert all(step.verdict.endswith("dB") for step in climbed.steps if step.verdict != "kept")


def test_table_has_a_row_for_every_step(climbed: object) -> None:
    lines = climbed.table().splitlines()
    assert len(lines) == 2 + len(climbed.steps)
    assert "equalization" in climbed.table()
    assert f"{climbed.fidelity.sqnr:.1f} dB" in climbed.summary()


def test_search_ends_where_it_is_near_enough(uneven: Calibration) -> None:
    found = recover(uneven, Scheme(), Goal(sqnr=5, least_speedup=None))
    assert [step.rung for step in found.steps] == ["plain"]


def test_every_rung_has_its_turn_when_time_is_short(uneven: Calibration) -> None:
    now = iter(range(1_000_000))

    def clock() -> float:
        return float(next(now))

    found = recover(uneven, PER_TENSOR, replace(UNREACHABLE, budget=70), clock)
    rungs = RUNGS if found.attempt.scheme.per_channel else RUNGS[:-1]  # weights of one scale are not rounded in turn
    per_rung = [sum(step.rung == rung.name for step in found.steps) for rung in rungs]
    assert min(per_rung) >= 1, found.table()
    assert len(found.steps) < len(RUNGS) * 4
    over = recover(uneven, PER_TENSOR, replace(UNREACHABLE, budget=0))
    assert len(over.steps) == 1


def test_given_method_stays(uneven: Calibration) -> None:
    rungs = tuple(rung for rung in RUNGS if rung.name in {"per-channel weights", "calibration method"})
    found = recover(uneven, PER_TENSOR, replace(UNREACHABLE, method="mse", rungs=rungs))
    assert {step.rung for step in found.steps} == {"plain", "per-channel weights"}
    assert found.attempt.method == "mse"
    with pytest.raises(UsageError, match="method 'distribution' is not known"):
        recover(uneven, PER_TENSOR, Goal(method="distribution"))


def test_measure_that_makes_it_too_slow_is_dropped(uneven: Calibration) -> None:
    def in_fp32(best: Attempt) -> Iterator[Attempt]:
        names = frozenset(node.name for node in best.calibration.model.graph.node if node.name != "linear")
        yield replace(best, what="nearly all in fp32", scheme=replace(best.scheme, exclude=names))

    rung = Rung("everything", in_fp32, costs_speed=True)
    slow = recover(uneven, Scheme(), Goal(sqnr=199, least_speedup=1000, rungs=(rung,)))
    assert slow.steps[-1].verdict.startswith("too slow: ")
    assert slow.attempt.what == "minmax"
    unmeasured = recover(uneven, Scheme(), Goal(sqnr=199, least_speedup=None, rungs=(rung,)))
    assert unmeasured.steps[-1].verdict == "kept"
    assert unmeasured.fidelity.sqnr > slow.fidelity.sqnr


def test_failed_attempt_is_a_row_and_not_the_end(uneven: Calibration) -> None:
    class Broken(Calibration):
        def ranges(self, *_: object, **__: object) -> object:
            raise ExportError("no range")

    def broken(best: Attempt) -> Iterator[Attempt]:
        failing = object.__new__(Broken)
        failing.model = best.calibration.model
        yield replace(best, what="broken", calibration=failing)

    found = recover(uneven, Scheme(), Goal(sqnr=199, least_speedup=None, rungs=(Rung("broken", broken),)))
    assert found.steps[-1].verdict == "failed: no range"
    assert found.attempt.what == "minmax"


def test_judge_compares_scores_of_classes(uneven: Calibration) -> None:
    judge = Judge(uneven, images=10)
    same = judge.fidelity(uneven.model)
    assert (same.sqnr, same.agreement, same.images) == (200.0, 1.0, 8)
    assert judge.speedup(uneven.model) > 0


def test_another_number_of_rows_is_noise(uneven: Calibration) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(uneven.model)
    model.graph.output[0].name = "twice"
    model.graph.node.append(onnx.helper.make_node("Concat", ["scores", "scores"], ["twice"], name="twice", axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value *= 2
    found = Judge(uneven, images=8).fidelity(model)
    assert found.sqnr == pytest.approx(0)
    assert found.agreement is None
