"""What exporters and runtimes say, and what it is taken for. The texts are theirs."""

from __future__ import annotations

import pytest

from controller.lifecycle.gate.diagnosis import PITFALLS, Evidence, diagnose, explained

SAID = [
    (
        "operator",
        "operator mine.swirl.default is not registered",
        "Error when translating node %swirl : [num_users=1] = call_function[target=torch.ops.mine.swirl.default](%x)",
    ),
    (
        "operator",
        "operator mine::swirl is not registered",
        "ONNX export failed on an operator with unrecognized namespace mine::swirl. If you are trying to export a",
    ),
    ("operator", "operator ex:Foo is not registered", "Fatal error: ex:Foo(-1) is not a registered function/op"),
    (
        "shapes",
        "shapes do not follow from the graph (data-dependent)",
        "Could not guard on data-dependent expression zuf0 (unhinted: zuf0).  (Size-like symbols: none)",
    ),
    (
        "fixed-batch",
        "the batch became a constant: Constraints violated (N)",
        'Constraints violated (N)! For more information, run with TORCH_LOGS="+dynamic".',
    ),
    (
        "layout",
        "a convolution wants 3 channels and finds 224",
        "Given groups=1, weight [64, 3, 7, 7], expected input[2, 224, 224, 3] to have 3 channels, but got 224 channels",
    ),
    (
        "opset",
        "its versions are not supported: Unsupported model IR version: 15, max supported IR version: 13",
        "model.cc:256 onnxruntime::Model::Model(...) Unsupported model IR version: 15, max supported IR version: 13",
    ),
]


@pytest.mark.parametrize(("pitfall", "found", "text"), SAID)
def test_what_a_tool_says_is_recognized(pitfall: str, found: str, text: str) -> None:
    diagnosis = diagnose(Evidence(error=text))
    assert diagnosis is not None
    assert (diagnosis.pitfall.id, diagnosis.found) == (pitfall, found)
    assert f"{found[:1].upper()}{found[1:]}. Cause: " in explained("it failed", Evidence(error=text))


def test_other_failures_are_left_as_they_are() -> None:
    assert diagnose(Evidence()) is None
    assert explained("no space left on device", Evidence(error="no space left on device")) == "no space left on device"
    node = "Error when translating node %x : call_function[target=torch.ops.aten.add.Tensor](args = (%x, 1))"
    assert diagnose(Evidence(error=node)) is None


def test_a_first_call_is_slow_only_where_it_is_so_by_far() -> None:
    assert diagnose(Evidence(first_call=0.15, later_calls=0.1)) is None
    assert diagnose(Evidence(first_call=0.05, later_calls=0.001)) is None
    slow = diagnose(Evidence(first_call=2.0, later_calls=0.01))
    assert slow is not None
    assert slow.pitfall.id == "slow-first-call"


def test_there_are_seven_each_with_cause_and_fix() -> None:
    assert len({pitfall.id for pitfall in PITFALLS}) == 7
    assert all(pitfall.cause and pitfall.fix for pitfall in PITFALLS)
