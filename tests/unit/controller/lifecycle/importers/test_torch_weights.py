"""State dicts as they are found in the wild, and those that do not fit."""

from __future__ import annotations

import pickle
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from controller.errors import ExportError
from controller.lifecycle.importers.torch_weights import load_into
from runtime.errors import UsageError

Weights = dict[str, torch.Tensor]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def made(seed: int) -> nn.Sequential:
    model = network(seed)
    model(torch.rand(2, 3, 5, 5))
    return model


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda weights: weights,
    "under state_dict": lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"state": {}}},
    "under model": lambda weights: {"model": weights, "args": {"lr": 0.1}},
    "twice under": lambda weights: {"net": {"state_dict": weights}},
    "of data parallel": prefixed("module."),
    "of lightning": lambda weights: {"state_dict": prefixed("model.")(weights), "hyper_parameters": {}},
    "compiled": prefixed("_orig_mod."),
    "beside a plain tensor": lambda weights: {"step": torch.tensor(3), "model": weights},
    "beside options and figures": lambda weights: {
        "model": weights,
        "args": Namespace(lr=0.1),
        "best": np.float64(0.5),
        "epoch": np.int64(3),
        "loss": np.float32(0.1),
    },
    "without counters": lambda weights: {n: v for n, v in weights.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_state_dict_is_found_however_it_is_wrapped(wrap: Callable[[Weights], Any], tmp_path: Path) -> None:
    trained, fresh = made(1), made(2)
    torch.save(wrap(trained.state_dict()), tmp_path / "w.pth")
    load_into(fresh, tmp_path / "w.pth")
    pictures = torch.rand(2, 3, 5, 5)
    assert torch.equal(fresh.eval()(pictures), trained.eval()(pictures))


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    weights = made(1).state_dict()
    weights["0.weight"] = torch.zeros(4, 1, 3, 3)
    weights["aux.bias"] = weights.pop("3.bias")
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ExportError) as told:
        load_into(made(2), tmp_path / "w.pth")
    assert str(told.value) == (
        f"{tmp_path}/w.pth does not fit Sequential: 1 missing (3.bias); 1 unexpected (aux.bias); 1 of another shape "
        "(0.weight is (4, 1, 3, 3), expected (4, 3, 3, 3)); expected the state dict of just such a model: name the "
        "factory that made it, with its number of classes, or save model.state_dict() of the whole model"
    )
    torch.save({f"other.{n}": torch.zeros(1) for n in range(9)}, tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"9 unexpected \(other\.0, .*other\.4 and 4 more\)"):
        load_into(made(2), tmp_path / "w.pth")


def test_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(UsageError, match=r"--weights \S+w\.pth is no file"):
        load_into(made(1), path)
    torch.save(made(1), path)
    with pytest.raises(ExportError, match=r"nothing else is loaded, since it could run code: .*save model\.state_dict"):
        load_into(made(1), path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(
        ExportError, match="holds no state dict; expected names with tensors, alone or under state_dict"
    ):
        load_into(made(1), path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ExportError, match="holds no weights"):
        load_into(made(1), path)


class _Runs:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return Path.touch, (self.touched,)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"state_dict": _Runs(tmp_path / "touched")}, protocol=2))
    with pytest.raises(ExportError):
        load_into(made(1), tmp_path / "w.pth")
    assert not (tmp_path / "touched").exists()


def test_safetensors_without_the_package_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match=r"needs a package that is not installed: pip install safetensors"):
        load_into(made(1), tmp_path / "w.safetensors")


def test_safetensors_are_read_where_the_package_is(tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    trained, fresh = made(1), made(2)
    files.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    load_into(fresh, tmp_path / "w.safetensors")
    assert torch.equal(fresh[0].weight, trained[0].weight)
    (tmp_path / "w.safetensors").write_bytes(b"?" * 40)
    with pytest.raises(ExportError, match="is no safetensors file"):
        load_into(fresh, tmp_path / "w.safetensors")
