from __future__ import annotations

from pathlib import Path

import pytest
import torch

from controller.lifecycle.training.architectures import build
from controller.lifecycle.training.frameworks import FRAMEWORKS, resolve
from runtime.errors import UsageError


def test_resnet18_small_is_resnet18_with_a_small_stem() -> None:
    model = build("resnet18-small", 10, 32)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 11_173_962  # the figure of the well-known CIFAR variant
    strides = [m.stride[0] for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert strides[0] == 1
    assert not any(isinstance(m, torch.nn.MaxPool2d) for m in model.modules())


@pytest.mark.parametrize("name", FRAMEWORKS["torch"].architectures)
@pytest.mark.parametrize("size", [8, 16, 33])
def test_built_in_architectures_take_any_small_size(name: str, size: int) -> None:
    model = build(name, 7, size)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19", "built in for torch are resnet18-small, tiny"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        ("math:no_such_function", "has no 'no_such_function'"),
        ("math:pi", "is a float, expected a function"),
    ],
)
def test_unknown_architecture_says_what_is_known(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve("torch", name)


OWN_MODULE = """
from torch import nn
def good(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))
def other_argument(classes): return good(classes)
def no_module(num_classes): return 3
def wrong_shape(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes + 1))
def wrong_size(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(5, num_classes))
class Strict(nn.Module):
    def forward(self, pixels): assert pixels.shape[-1] == 224, "Input size must be 224"
def strict(num_classes): return Strict()
def broken(num_classes): return nn.Nothing()
def softmaxed(num_classes): return nn.Sequential(good(num_classes), nn.Softmax(1))
"""


def test_own_module_is_found_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_arch.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    assert build("own_arch:good", 5, 8)(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    cases = {
        "own_arch:other_argument": "cannot be called as factory",
        "own_arch:no_module": "made a int",
        "own_arch:wrong_shape": r"gives \(2, 6\) for 2 images, expected \(2, 5\)",
        "own_arch:wrong_size": "does not take images of 8x8 pixels",
        "own_arch:broken": "cannot be made: AttributeError: module 'torch.nn' has no attribute 'Nothing'",
        "own_arch:softmaxed": "gives probabilities, expected logits: leave its softmax out",
        "own_arch:strict": "does not take images of 8x8 pixels: Input size must be 224",
    }
    for name, says in cases.items():
        with pytest.raises(UsageError, match=says):
            build(name, 5, 8)
