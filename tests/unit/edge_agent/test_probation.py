"""Probation: what a model must do to stay."""

from __future__ import annotations

import pytest

from edge_agent.errors import UpdateError
from edge_agent.probation import Rules, Seen, passed

RULES = Rules(seconds=5, frames=3, crashes=1)
GOOD = {"seconds": 5.0, "frames": 3, "errors": 0, "crashes": 0, "waiting": False}


@pytest.mark.parametrize(
    ("change", "over"),
    [
        ({}, True),
        ({"seconds": 4.9}, False),
        ({"frames": 2}, False),
        ({"frames": 0, "waiting": True}, True),  # there is no source
        ({"crashes": 1}, True),
    ],
)
def test_when_it_is_over(change, over):
    assert passed(RULES, Seen(**GOOD | change)) is over


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"errors": 1}, "1 inferences failed"),
        ({"crashes": 2, "reason": "exit code -11"}, "2 times unasked; last: exit code -11"),
        ({"frames": 2, "seconds": 61.0}, "2 frames in 61 s; expected 3"),
    ],
)
def test_what_fails_it(change, named):
    with pytest.raises(UpdateError, match=named) as caught:
        passed(RULES, Seen(**GOOD | change))
    assert caught.value.code == "probation"


def test_an_assignment_may_set_the_rules():
    config = {"probation_seconds": "0.5", "probation_frames": "10", "probation_crashes": "0", "other": "x"}
    assert Rules.from_config(config) == Rules(seconds=0.5, frames=10, crashes=0)
    assert Rules.from_config({}) == Rules()


@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan", ""])
def test_a_rule_that_is_no_number_is_refused(value):
    with pytest.raises(UpdateError, match="probation_seconds") as caught:
        Rules.from_config({"probation_seconds": value})
    assert caught.value.code == "requirements"
