"""Models of torch through the command line, each in a process of its own; docs/import.md shows the plain ways."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Command

from controller.lifecycle.importers.factory import open_source
from controller.lifecycle.importers.source import Job
from controller.lifecycle.preparation.presets import PRESETS
from runtime.images import load
from runtime.manifest import Tensor
from runtime.preprocess import Preprocessor
from runtime.store import ModelStore

pytestmark = pytest.mark.integration

NETS = """
import torch
from torch import nn

def small(num_classes=3):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
    )

class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, pixels):
        return self.inner[-1](self.inner[:-1](pixels).reshape(1, 8))

class Wary(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, pixels):
        if torch.isnan(pixels).any():
            raise ValueError("NaN among the pixels")
        return self.inner(pixels)
"""
WITHOUT_TORCH = """
import sys
from runtime.cli import run_command, vedette
try:
    run_command(vedette, "vedette", sys.argv[1:])
except SystemExit as ended:
    sys.exit(ended.code or ("torch was loaded outside its process" if "torch" in sys.modules else 0))
"""
IMPORT = ("model", "import", "--task", "classification", "--preprocess", "unit", "--name", "m")


@pytest.fixture(autouse=True)
def _nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("nets_here.py").write_text(NETS)


def test_code_that_dynamo_cannot_trace_comes_by_torchscript_and_that_is_recorded(command: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *IMPORT, "nets_here:Wary", "--image-size", "8x12"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    manifest = command("model", "show", "m", "--json")[1]
    assert manifest["provenance"]["route"] == "torchscript"
    assert manifest["provenance"]["framework"] == f"torch {torch.__version__.partition('+')[0]}"
    assert manifest["variants"][0]["inputs"][0]["shape"][1:] == [8, 12, 3]
    assert manifest["variants"][0]["metrics"]["parity_max_abs"] < 1e-4
    assert "note: route dynamo to ONNX was not taken: torch cannot export Wary: " in done.stderr
    assert "note: converted to ONNX by route torchscript" in done.stderr


def test_what_cannot_be_imported_is_one_line_and_publishes_nothing(command: Command) -> None:
    torch.save({"0.weight": torch.zeros(1)}, "other.pth")
    Path("absent.keras").touch()
    factory = (*IMPORT, "nets_here:small", "--image-size", "8")
    cases: list[tuple[tuple[str, ...], int, str]] = [
        ((*factory, "--weights", "other.pth"), 1, "other.pth does not fit Sequential: 7 missing (0.bias, 1.weight, "),
        ((*IMPORT, "nets_here:large"), 2, "nets_here:large: 'nets_here' has no 'large'"),
        ((*IMPORT, "other.pth", "--image-size", "8"), 2, "MODULE:FACTORY --weights other.pth"),
        ((*IMPORT, "other.pth", "--classes", "3"), 2, "which knows itself; leave --classes out"),
        ((*IMPORT, "other.pth", "--importer-python", "nowhere/python"), 2, "--importer-python nowhere/python: No such"),
        ((*IMPORT, "nets_here:small", "--image-size", "8xx"), 2, "'8xx' is no size"),
        (
            (*IMPORT, "nets_here:Single", "--image-size", "8"),
            1,
            "it runs with one picture: a batch size is a constant in its code, mostly in a reshape; write x.flatten(1)",
        ),
        ((*factory, "--classes", "0"), 2, "--classes is 0; expected 1 or more"),
        ((*factory, "--custom-ops", "nets_here.py"), 2, "leave --custom-ops out"),
    ]
    for arguments, expected, says in cases:
        code, out, err = command(*arguments)
        errors = [line for line in err.splitlines() if line.startswith(("vedette: error: ", "Error: "))]
        assert (code, out, len(errors)) == (expected, "", 1), (arguments, err)
        assert says in errors[0]
        assert "Traceback" not in err
    assert ModelStore.open().names() == []


def test_weights_of_torchvision_answer_as_they_do_there(test_data: Callable[[str], Path]) -> None:
    """Weights as they are downloaded, in a MobileNetV2 whose layers are named as torchvision names them."""
    Path("mobile_here.py").write_text(MOBILENET)
    weights, folder = test_data("models/mobilenet_v2_torchvision.pth"), test_data("images/imagenet300")
    with test_data("reference/mobilenet_v2_torchvision_top5.csv").open() as file:
        expected = {row["file"]: int(row["idx1"]) for row in list(csv.DictReader(file))[:8]}
    source = open_source(Job(source="mobile_here:net", weights=weights, image_size=(224, 224)))
    taken = Tensor(name="pixels", dtype="float32", shape=("N", 3, 224, 224))
    prepare = Preprocessor(PRESETS["imagenet"].plain(), taken)
    batch = np.stack([prepare(load(folder / name)) for name in expected])
    assert source.run(batch)[0].argmax(1).tolist() == list(expected.values())


MOBILENET = """
from torch import nn

SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

def conv(inputs, outputs, size=3, stride=1, groups=1):
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())

class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, expand):
        super().__init__()
        hidden = inputs * expand
        self.adds = stride == 1 and inputs == outputs
        first = [conv(inputs, hidden, 1)] if expand > 1 else []
        rest = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*first, conv(hidden, hidden, 3, stride, hidden), *rest)

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)

class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [conv(3, 32, stride=2)], 32
        for expand, outputs, count, stride in SETTINGS:
            for place in range(count):
                layers.append(Inverted(inputs, outputs, stride if place == 0 else 1, expand))
                inputs = outputs
        self.features = nn.Sequential(*layers, conv(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))

def net():
    return MobileNetV2()
"""
