"""Models of torch in every form that they come in, against what ONNX Runtime makes of their graphs."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim

from controller.errors import ExportError
from controller.lifecycle.importers import factory, torch_program, torch_script
from controller.lifecycle.importers.source import Job, Source
from controller.lifecycle.importers.torch_module import ModuleSource, open_built
from runtime.errors import UsageError
from runtime.files import hash_file

SIZE = (8, 10)
JOB = Job(source=f"{__name__}:Mixed", image_size=SIZE)


class Mixed(nn.Module):
    """Convolution, batch normalization, a residual, dropout and attention, with weights that are not near zero."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.tokens = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.stem(pixels)))
        return features + self.depthwise(features)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(self.features(pixels).flatten(2).transpose(1, 2))
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(self.drop(attended.mean(1)))


class Plain(Mixed):
    """Without the attention, whose branches the exporter of TorchScript does not take."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.features(pixels).mean((2, 3))))


class Many(Mixed):
    """Gives a mapping."""

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pixels)
        return {"map": features, "logits": self.head(features.mean((2, 3)))}


class Answers(Mixed):
    """Gives what *answer* makes of logits and features."""

    def __init__(self, answer: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, pixels: torch.Tensor) -> object:
        features = self.features(pixels)
        return self.answer(self.head(features.mean((2, 3))), features)


def pictures(count: int = 3, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, channels, *SIZE)).astype(np.float32)


def answers(graph: onnx.ModelProto, batch: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"pixels": batch}))


def check_parity(source: Source, route: str, channels: int = 3) -> onnx.ModelProto:
    graph = source.convert(route)
    for count in (1, 3):
        ours, theirs = answers(graph, pictures(count, channels)), source.run(pictures(count, channels))
        for found, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
        assert max(float(np.abs(expected).max()) for expected in theirs) > 0.1
    return graph


def names(graph: onnx.ModelProto) -> list[str]:
    return [value.name for value in graph.graph.output]


def test_module_is_opened_in_eval_mode_and_that_is_said() -> None:
    model = Mixed().double()
    source = open_built(model, JOB)
    assert not any(module.training for module in model.modules())
    assert source.facts.routes == ("dynamo", "torchscript")
    assert source.facts.framework.startswith("torch 2.")
    assert source.facts.source_sha256 == hash_file(Path(__file__))
    assert source.facts.warnings == (
        f"the weights are those that {JOB.source} leaves in the model; --weights FILE gives others",
        "the model was in training mode; it is imported in eval mode",
        "the weights were torch.float64; they are imported as float32",
    )
    assert names(check_parity(source, "dynamo")) == ["output"]
    assert names(check_parity(source, "torchscript")) == ["output"]


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    trained = Mixed().eval()
    with torch.no_grad():
        trained.head.bias.fill_(7)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pth")
    source = open_built(Mixed().eval(), replace(JOB, weights=tmp_path / "w.pth"))
    np.testing.assert_array_equal(source.run(pictures())[0], trained(torch.from_numpy(pictures())).detach().numpy())
    assert source.facts.warnings == ()


def test_size_and_colours_are_those_of_the_job() -> None:
    with pytest.raises(UsageError, match="--image-size is needed for m:f"):
        open_built(Mixed(), Job(source="m:f"))
    source = open_built(Mixed(channels=1), replace(JOB, color="L"))
    assert source.run(pictures(2, channels=1))[0].shape == (2, 4)
    with pytest.raises(ExportError, match=r"does not run a batch of shape \(2, 3, 8, 10\): RuntimeError: .*channels"):
        open_built(Mixed(channels=1), JOB)


@pytest.mark.parametrize(
    ("answer", "expected", "route"),
    [
        (lambda logits, features: (logits, features), ["output_0", "output_1"], "dynamo"),
        (lambda logits, features: OrderedDict(out=features, aux=logits), ["out", "aux"], "torchscript"),
        (lambda logits, _: {"output": logits}, ["output"], "torchscript"),
        (lambda logits, features: {"boxes": [logits, features], "none": None}, ["boxes_0", "boxes_1"], "dynamo"),
    ],
    ids=["tuple", "ordered mapping", "mapping of one", "nested, with nothing in it"],
)
def test_several_outputs_are_told_apart(
    answer: Callable[[torch.Tensor, torch.Tensor], object], expected: list[str], route: str
) -> None:
    source = open_built(Answers(answer), JOB)
    assert names(check_parity(source, route)) == expected


def test_outputs_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(ExportError, match="the model gives a str as label; expected tensors, alone or in a"):
        open_built(Answers(lambda logits, _: {"scores": logits, "label": "cat"}), JOB)


def test_values_inside_have_the_names_and_numbers_of_the_graph() -> None:
    source = open_built(Mixed(), JOB)
    assert source.values(pictures()) == {}, "nothing has come by the dynamo exporter yet"
    graph = source.convert("dynamo")
    values = source.values(pictures())
    made = [name for node in graph.graph.node for name in node.output if name in values]
    assert len(made) >= 8
    assert "output" in made
    inferred = onnx.shape_inference.infer_shapes(graph)
    kinds = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    graph.graph.ClearField("output")
    graph.graph.output.extend(kinds[name] for name in made)
    for name, found in zip(made, answers(graph, pictures()), strict=True):
        np.testing.assert_allclose(found, values[name], atol=1e-4, err_msg=name)
    source.convert("torchscript")
    assert source.values(pictures()) == {}


class Wary(Mixed):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if torch.isnan(pixels).any():
            raise ValueError("NaN among the pixels")
        return super().forward(pixels)


def test_code_that_looks_at_values_is_left_to_the_second_route() -> None:
    source = open_built(Wary(), JOB)
    with pytest.raises(ExportError, match=r"torch cannot export Wary: .*[Dd]ata-dependent"):
        source.convert("dynamo")
    check_parity(source, "torchscript")


def exported(path: Path, model: nn.Module, *examples: torch.Tensor, dynamic: bool = True) -> Job:
    shapes = tuple({0: Dim("batch")} for _ in examples) if dynamic else None
    torch.export.save(torch.export.export(model, examples, dynamic_shapes=shapes), path)
    return Job(source=str(path))


@pytest.mark.parametrize("route", ["dynamo", "torchscript"])
def test_exported_program_with_a_dynamic_batch(route: str, tmp_path: Path) -> None:
    job = exported(tmp_path / "m.pt2", Answers(lambda a, b: {"a": a, "b": b}).eval(), torch.zeros(2, 3, *SIZE))
    source = torch_program.open_source(job)
    assert names(check_parity(source, route)) == ["a", "b"]
    assert bool(source.values(pictures())) == (route == "dynamo")


def test_exported_program_keeps_its_fixed_batch(tmp_path: Path) -> None:
    source = torch_program.open_source(
        exported(tmp_path / "m.pt2", Mixed().eval(), torch.zeros(4, 3, *SIZE), dynamic=False)
    )
    graph = source.convert("dynamo")
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [4, 3, *SIZE]
    np.testing.assert_allclose(answers(graph, pictures(4))[0], source.run(pictures(4))[0], atol=1e-4)


class Pair(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


def test_exported_program_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with pytest.raises(
        ExportError, match=r"made in training mode .* \(1 batch_norm, \d dropout\); call model\.eval\(\)"
    ):
        torch_program.open_source(exported(path, Mixed().train(), torch.zeros(2, 3, *SIZE)))
    two = (torch.zeros(2, 3, *SIZE), torch.zeros(2, 3, *SIZE))
    with pytest.raises(UsageError, match=r"m\.pt2 takes left \['2', '3', '8', '10'\], right .*; expected one tensor"):
        torch_program.open_source(exported(path, Pair(), *two, dynamic=False))
    free = torch.export.export(Mixed().eval(), two[:1], dynamic_shapes=({0: Dim("batch"), 2: Dim("height")},))
    torch.export.save(free, path)
    with pytest.raises(ExportError, match="only the batch may be dynamic"):
        torch_program.open_source(Job(source=str(path)))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ExportError, match=r"is no program that torch \S+ reads: .*torch\.export\.save writes one"):
        torch_program.open_source(Job(source=str(path)))


def scripted(path: Path, form: str, model: nn.Module) -> Job:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "traced":
            made = torch.jit.trace(model, torch.zeros(2, 3, *SIZE), check_trace=False)
        else:
            made = torch.jit.script(model)
        if form == "frozen":
            made = torch.jit.freeze(made)
        torch.jit.save(made, path)
    return Job(source=str(path), image_size=SIZE)


@pytest.mark.parametrize("form", ["scripted", "traced", "frozen"])
def test_torchscript_has_one_route(form: str, tmp_path: Path) -> None:
    model = Plain().train(form == "scripted")
    source = torch_script.open_source(scripted(tmp_path / "m.pt", form, model))
    assert source.facts.routes == ("torchscript",)
    assert "deprecated" in source.facts.warnings[0]
    check_parity(source, "torchscript")
    np.testing.assert_allclose(
        source.run(pictures())[0], model.eval()(torch.from_numpy(pictures())).detach(), atol=1e-5
    )


def test_torchscript_gives_several_outputs(tmp_path: Path) -> None:
    source = torch_script.open_source(scripted(tmp_path / "m.pt", "scripted", Many().eval()))
    assert names(check_parity(source, "torchscript")) == ["map", "logits"]


def test_attention_in_eval_mode_is_not_taken_for_training(tmp_path: Path) -> None:
    source = torch_script.open_source(scripted(tmp_path / "m.pt", "scripted", Mixed().eval()))
    assert source.run(pictures())[0].shape == (3, 4)


def test_torchscript_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    job = scripted(path, "traced", Mixed().train())
    with pytest.raises(ExportError, match=r"made in training mode .*batch_norm.*torch\.jit\.trace again"):
        torch_script.open_source(job)
    with pytest.raises(UsageError, match=r"--image-size is needed for \S+m\.pt"):
        torch_script.open_source(Job(source=str(path)))
    for content in (Mixed().state_dict(), Mixed()):
        torch.save(content, path)
        with pytest.raises(UsageError, match=r"holds weights or a pickled model.*MODULE:FACTORY --weights \S+m\.pt"):
            torch_script.open_source(job)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ExportError, match="is no TorchScript that torch"):
        torch_script.open_source(job)


FACTORIES = """
import torch
from torch import nn

def net(num_classes=4, width=2):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def strict(num_classes):
    return net(num_classes)

def fixed():
    return net()

class Zoo:
    small = staticmethod(net)

text, number = "net", (lambda: 3)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "nets_of_a_user.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return "nets_of_a_user"


def test_factory_of_the_user_is_called_with_its_classes(nets: str) -> None:
    def outputs(name: str, classes: int | None) -> tuple[int, ...]:
        source = factory.open_source(Job(source=f"{nets}:{name}", classes=classes, image_size=SIZE))
        assert isinstance(source, ModuleSource)
        return source.run(pictures(2))[0].shape

    assert outputs("net", None) == (2, 4)
    assert outputs("Zoo.small", 7) == (2, 7)
    assert outputs("strict", 5) == (2, 5)
    assert outputs("fixed", None) == (2, 4)


@pytest.mark.parametrize(
    ("source", "classes", "says"),
    [
        (":strict", None, "cannot be called as factory(): missing a required argument: 'num_classes'; --classes gives"),
        (":fixed", 5, "cannot be called as factory(num_classes=5): got an unexpected keyword argument"),
        (":none", None, "'nets_of_a_user' has no 'none'"),
        (":text", None, "'text' is a str, expected a function that makes a model"),
        (":number", None, "made a int; expected a model of "),
        ("_gone:net", None, "cannot import 'nets_of_a_user_gone': No module named"),
    ],
)
def test_factory_that_makes_no_model_is_refused(nets: str, source: str, classes: int | None, says: str) -> None:
    with pytest.raises(UsageError) as told:
        factory.open_source(Job(source=f"{nets}{source}", classes=classes, image_size=SIZE))
    assert says in str(told.value)
