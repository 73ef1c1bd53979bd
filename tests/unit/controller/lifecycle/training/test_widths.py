"""A pruned network is rebuilt from plain numbers, and from nothing that could run code."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from controller.errors import TrainingError
from controller.lifecycle.training.widths import changed_widths, resize


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, groups=width),
        nn.Flatten(),
        nn.LayerNorm(width * 16),
        nn.Linear(width * 16, 5),
    )


def test_what_changed_is_read_off_and_rebuilds_the_same_model() -> None:
    torch.manual_seed(0)
    narrow, fresh = network(4), network(8)
    widths = changed_widths(fresh, narrow)
    assert widths["0"] == {"out_channels": 4}
    assert widths["2"] == {"in_channels": 4, "out_channels": 4, "groups": 4}
    assert widths["4"] == {"normalized_shape": (64,)}
    assert widths["5"] == {"in_features": 64}
    written = {name: {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for name, row in
               json.loads(json.dumps(widths)).items()}  # fmt: skip
    resize(fresh, written, narrow.state_dict())
    fresh.load_state_dict(narrow.state_dict())
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(fresh.eval()(pixels), narrow.eval()(pixels))
    assert str(fresh) == str(narrow)


def test_nothing_changed_is_nothing_written() -> None:
    assert changed_widths(network(8), network(8)) == {}


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"9": {"out_channels": 4}}, "no module '9'"),
        ({"0": {"forward": 4}}, "has forward 4 in '0'"),
        ({"0": {"training": 1}}, "has training 1 in '0'"),
        ({"0": {"out_channels": "4"}}, "has out_channels '4' in '0'"),
        ({"0": {"out_channels": True}}, "has out_channels True in '0'"),
        ({"0": {"__class__": 1}}, "has __class__ 1 in '0'"),
    ],
)
def test_what_is_no_width_is_refused(widths: dict[str, dict[str, Any]], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        resize(network(8), widths, {})


def test_weights_of_modules_that_are_not_there_are_refused() -> None:
    with pytest.raises(TrainingError, match="no module '7'"):
        resize(network(8), {}, {"7.weight": torch.zeros(1)})
