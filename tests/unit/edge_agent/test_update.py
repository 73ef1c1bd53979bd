"""The update's core: what follows on what, and which candidates there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import UpdateError
from edge_agent.trials import Candidate
from edge_agent.update import Action, Capabilities, Update, check_requirements
from runtime.manifest import Requires
from runtime.protocol.messages import Phase

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GOOD_ORDER = [
    Action.FETCH_MANIFEST, Action.DOWNLOAD, Action.VERIFY, Action.PROVE, Action.START, Action.SWITCH, Action.OBSERVE,
    Action.COMMIT,
]  # fmt: skip


def run(outcomes: list[bool], choices: int) -> list[tuple[Action, bool, Update]]:
    """Play an update whose steps succeed as *outcomes* say (then always); returns (action, success, after)."""
    update, trace = Update(), []
    chosen = [Candidate(f"v{number}", CPU) for number in range(choices)]
    remaining = iter(outcomes)
    while update.action is not Action.DONE:
        action, good = update.action, next(remaining, True)
        if not good:
            update = update.failed("proof" if action is Action.PROVE else "internal", "it went wrong")
        elif action is Action.FETCH_MANIFEST:
            update = update.planned(chosen)
        elif action is Action.PROVE:
            update = update.proven()
        else:
            update = update.succeeded()
        trace.append((action, good, update))
        assert len(trace) < 100, "it does not end"
    return trace


def test_without_a_failure_every_step_comes_once_and_in_order():
    trace = run([], 1)
    assert [action for action, _, _ in trace] == GOOD_ORDER
    assert trace[-1][2].problem is None
    assert trace[-1][2].phase is Phase.COMMITTED


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 4))
def test_the_laws_hold_whatever_fails(outcomes, choices):
    trace = run(outcomes, choices)
    actions = [action for action, _, _ in trace]
    final = trace[-1][2]
    committed = any(action is Action.COMMIT and good for action, good, _ in trace)

    assert committed == (final.problem is None)  # one or the other
    assert final.phase is (Phase.COMMITTED if committed else Phase.FAILED)
    if committed:
        assert actions[-6:] == GOOD_ORDER[-6:]  # of one candidate, without a gap
        assert all(good for _, good, _ in trace[-7:])
    else:
        switched = Action.SWITCH in actions
        assert actions[-1] is (Action.ROLL_BACK if switched else Action.DISCARD)
        assert actions.count(Action.ROLL_BACK) + actions.count(Action.DISCARD) == 1
    assert actions.count(Action.PROVE) <= choices
    failed_proofs = [after for action, good, after in trace if action is Action.PROVE and not good]
    for position, after in enumerate(failed_proofs, start=1):
        assert len(after.refused) == position


RIVALS = (
    Candidate("int8", CPU),
    Candidate("fp32", CPU, is_reference=True),
    Candidate("s8s8", CPU, unproven=True),
    Candidate("fp16", CPU, unproven=True),
)


def tried(update: Update, latency: float) -> Update:
    """Download, verify and prove what is under way."""
    assert update.action is Action.DOWNLOAD
    return update.succeeded().succeeded().proven(latency)


def test_rivals_of_what_is_proven_are_tried_and_the_fastest_serves():
    update = tried(Update().planned(RIVALS), 3.0)
    assert update.candidate == RIVALS[2]
    update = tried(update, 2.0)
    assert update.candidate == RIVALS[3]
    update = tried(update, 2.5)
    assert update.candidate == RIVALS[1]  # what both are compared with
    update = tried(update, 9.0)
    assert (update.action, update.candidate) == (Action.START, RIVALS[2])


@pytest.mark.parametrize(
    ("code", "on", "next_is"),
    [
        ("proof", Action.PROVE, (Action.DOWNLOAD, "fp16")),
        ("download", Action.DOWNLOAD, (Action.START, "int8")),
        ("deadline", Action.PROVE, (Action.START, "int8")),
        ("requirements", Action.VERIFY, (Action.START, "int8")),
    ],
)
def test_nothing_that_happens_to_a_rival_fails_the_update(code, on, next_is):
    update = tried(Update().planned(RIVALS), 3.0)
    while update.action is not on:
        update = update.succeeded()
    update = update.failed(code, "so it went")
    assert (update.action, update.candidate.variant) == next_is
    assert update.problem is None
    assert update.refused == (f"s8s8 on {CPU}: so it went",)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([CPU, CUDA])), min_size=1, max_size=6),
    st.lists(st.tuples(st.sampled_from(["good", "proof", "download", "deadline"]), st.floats(1, 9)), max_size=20),
)
def test_once_something_is_proven_the_fastest_of_what_passed_is_started(kinds, outcomes):
    chosen = [Candidate(f"v{number}", provider, unproven=new) for number, (new, provider) in enumerate(kinds)]
    update, passed, remaining = Update().planned(chosen), {}, iter(outcomes)
    for _ in range(4 * len(chosen)):
        if update.action not in {Action.DOWNLOAD, Action.VERIFY, Action.PROVE}:
            break
        outcome, latency = next(remaining, ("good", 5.0))
        if outcome != "good":
            update = update.failed(outcome if update.action is Action.PROVE else "download", "it went wrong")
        elif update.action is Action.PROVE:
            passed[update.candidate] = latency
            update = update.proven(latency)
        else:
            update = update.succeeded()
    assert update.action is (Action.START if passed else Action.DISCARD)
    if passed:
        assert update.problem is None
        (served,) = update.candidates
        assert passed[served] == min(passed.values())
        assert not served.unproven or all(passed[served] < passed[other] for other in passed if not other.unproven)


def test_when_every_proof_fails_all_reasons_are_named():
    update = Update().planned([Candidate("int8", CUDA), Candidate("fp32", CPU)])
    for reason in ("output differs by 3", "driver too old"):
        update = update.succeeded().succeeded().failed("proof", reason)
    assert (update.action, update.problem.code) == (Action.DISCARD, "proof")
    assert f"int8 on {CUDA}: output differs by 3" in update.problem.message
    assert f"fp32 on {CPU}: driver too old" in update.problem.message


def test_a_deadline_within_a_proof_ends_the_update_and_not_the_candidate():
    update = Update().planned([Candidate("int8", CPU), Candidate("fp32", CPU)]).succeeded().succeeded()
    update = update.failed("deadline", "too late")
    assert (update.action, update.problem.code) == (Action.DISCARD, "deadline")


def test_what_cleaning_up_adds_does_not_hide_the_cause():
    update = Update().failed("download", "the cause").failed("internal", "the disk is full too")
    assert update.action is Action.DONE
    assert update.problem.message == "the cause"


def test_a_model_for_other_devices_only_is_refused_before_a_download():
    update = Update().planned([])
    assert (update.action, update.problem.code) == (Action.DISCARD, "requirements")


HAVE = Capabilities(ort="1.32.0", memory_mb=1000, disk_mb=100, providers=(CPU,))


@pytest.mark.parametrize(
    ("requires", "needed", "named"),
    [
        (Requires(ort=">=1.33"), 0, "ORT 1.32.0, needs >=1.33"),
        (Requires(ort="banana"), 0, "'banana' cannot be read"),
        (Requires(memory_mb=1001), 0, "1000 MB of memory, needs 1001"),
        (Requires(disk_mb=101), 0, "100 MB of disk free, needs 101"),
        (Requires(), 200, "100 MB of disk free, needs 200"),
    ],
)
def test_what_the_device_lacks_is_named(requires, needed, named):
    with pytest.raises(UpdateError) as caught:
        check_requirements(requires, HAVE, needed)
    assert caught.value.code == "requirements"
    assert named in str(caught.value)


def test_a_device_without_onnx_runtime_lacks_it():
    with pytest.raises(UpdateError, match="ONNX Runtime is not installed"):
        check_requirements(Requires(), Capabilities(ort="", memory_mb=1, disk_mb=1, providers=()))


def test_a_device_that_has_it_all_passes():
    check_requirements(Requires(ort=">=1.22,<2", memory_mb=1000, disk_mb=100), HAVE, 100)
