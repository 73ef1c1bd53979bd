"""The seven classic pitfalls: a model that is really broken in each way, imported as a user would."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import Command, command_line
from custom_operators import library_path
from onnx import TensorProto, helper, numpy_helper
from torch import nn

pytestmark = pytest.mark.integration

SIZE = 16
IMPORT = ("model", "import", "--name", "broken", "--task", "classification", "--preprocess", "raw255")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The `vedette` command; what libraries write past Python stands in its stderr, too."""
    return command_line(capfd)


@pytest.fixture
def refused(command: Command) -> Callable[[Path], str]:
    """Import a file, see that it is refused and that nothing is published, and return what was said."""

    def bring(path: Path) -> str:
        code, _, err = command(*IMPORT, path)
        assert code == 1, err
        assert command("model", "list", "--json")[1] == []
        assert err.count("\n") == 1, err
        return err

    return bring


class Net(nn.Module):
    """Convolution, batch normalization, dropout, linear; the answer's shape as *flatten* makes it."""

    def __init__(self, flatten: Callable[[torch.Tensor], torch.Tensor] = lambda x: x.flatten(1)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 16, 5)
        self.flatten = flatten

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        inner = self.drop(torch.relu(self.norm(self.conv(pixels))))
        return self.head(self.flatten(inner))


def traced(model: nn.Module, path: Path, batch: int = 1, **options: object) -> Path:
    """Export *model* with torch's older exporter, as most of the world's ONNX files were."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that exporter is deprecated, and wary of sizes
        torch.onnx.export(
            model,
            (torch.rand(batch, 3, SIZE, SIZE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
            **options,
        )
    return path


def saved(path: Path, nodes: list[onnx.NodeProto], *weights: onnx.TensorProto, **options: object) -> Path:
    """Write a graph of *nodes* from ``x`` to ``y`` as a file."""
    shape = options.pop("shape", ["N", 3, SIZE, SIZE])
    out = options.pop("out", ["N", 5])
    opset, ir = options.pop("opset", 17), options.pop("ir", 8)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        weights,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(options.pop("domain", "example.org"), 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=ir), path)
    return path


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(1).normal(0, 0.3, shape).astype(np.float32), name)


def pooled(features: str = "c") -> list[onnx.NodeProto]:
    """Return nodes from *features* of 8 channels to ``y``, with the weight ``g``."""
    return [
        helper.make_node("GlobalAveragePool", [features], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"]),
    ]


def test_not_in_eval_mode(refused: Callable[[Path], str], tmp_path: Path) -> None:
    training = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    err = refused(traced(Net().train(), tmp_path / "m.onnx", batch=2, **training))
    assert "is in training mode. It computes as in training: BatchNormalization '/norm/" in err
    assert "Dropout '/drop/" in err
    assert "Cause: the model was not in eval mode when it was exported" in err
    assert "Fix: call model.eval()" in err


def test_not_in_eval_mode_where_no_operator_says_so(refused: Callable[[Path], str], tmp_path: Path) -> None:
    """Batch normalization by hand, or as some exporters take it apart: a picture's answer depends on its neighbours."""
    mean = numpy_helper.from_array(np.array([0, 2, 3], np.int64), "axes")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c0"]),
        helper.make_node("ReduceMean", ["c0", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["c0", "mean"], ["centred"]),
        helper.make_node("Relu", ["centred"], ["c"]),
        *pooled(),
    ]
    err = refused(saved(tmp_path / "m.onnx", nodes, weight("w", 8, 3, 3, 3), weight("g", 8, 5), mean, opset=18))
    assert "its answer depends on the pictures beside it. Cause: the model was not in eval mode" in err


def test_opset_too_new(refused: Callable[[Path], str], tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), *pooled()]
    path = saved(tmp_path / "m.onnx", nodes, weight("w", 8, 3, 3, 3), weight("g", 8, 5), opset=99, ir=10)
    err = refused(path)
    assert "It has opset 99 and IR 10; published are at most opset 21 and IR 10. Cause: " in err
    assert "Fix: export it again with opset 20 or 21 and IR 10: torch.onnx.export(..., opset_version=20)" in err
    err = refused(saved(path, nodes, weight("w", 8, 3, 3, 3), weight("g", 8, 5), opset=26, ir=99))
    assert "Unsupported model IR version: 99" in err
    assert "It has opset 26 and IR 99; published are at most opset 21 and IR 10. Cause: " in err


def test_fixed_batch_under_a_dynamic_declaration(refused: Callable[[Path], str], tmp_path: Path) -> None:
    model = Net(lambda x: x.reshape(1, 128)).eval()
    err = refused(traced(model, tmp_path / "m.onnx"))
    assert (
        "It declares any batch, runs batches of 1 and not of 2; these make the first dimension a constant: Reshape"
        in err
    )
    assert "Cause: a batch size became a constant when the model was traced" in err
    assert "Fix: export with an example batch of 2 and a dynamic batch" in err


def test_fixed_batch_that_runs_and_answers_for_two(refused: Callable[[Path], str], tmp_path: Path) -> None:
    """The source, an ONNX file, does the same: parity sees nothing."""
    shape = numpy_helper.from_array(np.array([2, -1], np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["y"], axes=[1], keepdims=1),
    ]
    err = refused(saved(tmp_path / "m.onnx", nodes, shape, out=["N", 1]))
    assert "It declares any batch, and gives 2 answers however many pictures it is given. Cause: a batch size" in err


def test_fixed_batch_of_neither_one_nor_three(refused: Callable[[Path], str], tmp_path: Path) -> None:
    model = Net(lambda x: x.reshape(2, 128)).eval()
    err = refused(traced(model, tmp_path / "m.onnx", batch=2))
    assert (
        "It declares any batch, and does not run batches of 1 and 3; these make the first dimension a constant" in err
    )
    assert "Cause: a batch size became a constant when the model was traced" in err


def test_fixed_batch_that_is_declared_is_a_note(command: Command, tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), *pooled()]
    weights = weight("w", 8, 3, 3, 3), weight("g", 8, 5)
    path = saved(tmp_path / "m.onnx", nodes, *weights, shape=[2, 3, SIZE, SIZE], out=[2, 5])
    code, _, err = command(*IMPORT, path)
    assert code == 0
    assert "note: the graph takes batches of 2 and no other size: batch jobs run their pictures in such groups" in err


def test_unregistered_operator(refused: Callable[[Path], str], command: Command, tmp_path: Path) -> None:
    weights = weight("w", 8, 3, 3, 3), weight("g", 8, 5)
    nodes = [helper.make_node("Conv", ["x", "w"], ["r"]), helper.make_node("Swishish", ["r"], ["c"]), *pooled()]
    err = refused(saved(tmp_path / "m.onnx", nodes, *weights))
    assert "Operator Swishish is not registered. Cause: nobody implements an operator of the model" in err
    assert "Fix: name the library that brings it with --custom-ops PATH" in err
    nodes[1].op_type = "Gelu"
    err = refused(saved(tmp_path / "m.onnx", nodes, *weights))
    assert "Operator Gelu came with opset 20, the model declares 17. Cause: " in err
    nodes[1].domain = "example.org"
    code, _, err = command(*IMPORT, saved(tmp_path / "m.onnx", nodes, *weights))
    assert code == 2
    assert "of domain 'example.org': Gelu; if a library brings them, name it with --custom-ops PATH" in err


def test_shape_that_cannot_be_inferred(refused: Callable[[Path], str], tmp_path: Path) -> None:
    """What the file notes of its output contradicts what the operators make."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), *pooled()]
    err = refused(saved(tmp_path / "m.onnx", nodes, weight("w", 8, 3, 3, 3), weight("g", 8, 5), out=["N", 7]))
    assert "Shapes do not follow from the graph" in err
    assert (
        "Cause: shapes cannot be inferred: they depend on numbers that are known at run time only, or contradict" in err
    )
    assert "Fix: export with a fixed picture size and static shapes besides the batch" in err


def test_nhwc_and_nchw_mixed_up(refused: Callable[[Path], str], tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="stem"), *pooled()]
    weights = weight("w", 8, 3, 3, 3), weight("g", 8, 5)
    err = refused(saved(tmp_path / "m.onnx", nodes, *weights, shape=["N", SIZE, SIZE, 3]))
    assert "Input 'x' is declared ['N', 16, 16, 3], and Conv 'stem' reads 3 channels from its second dimension" in err
    assert "Cause: NHWC and NCHW are mixed up" in err
    assert "Fix: declare the input as the first convolution reads it ((N, 3, H, W))" in err


LAZY = """
import sys, time
from pathlib import Path

import numpy as np
from onnxruntime_extensions import PyCustomOpDef, get_library_path, onnx_op

from controller.lifecycle.gate.checks import check_behaviour, check_graph, gate_batches
from runtime.files import hash_file
from runtime.manifest import CustomOps

table = []

@onnx_op(op_type="LazyTable", inputs=[PyCustomOpDef.dt_float], outputs=[PyCustomOpDef.dt_float])
def lazy_table(x):
    if not table:
        time.sleep(1.5)  # what it loads when it is first needed
        table.append(2.0)
    return x * table[0]

path = Path(sys.argv[1])
library = (CustomOps(path=get_library_path(), sha256=hash_file(Path(get_library_path()))),)
session = check_graph(path, library)
batches = [np.random.default_rng(n).random((n, 3, 16, 16), np.float32) for n in gate_batches(session.image)]
found = check_behaviour(session, batches, session.run, path=path, custom_ops=library)
print("\\n".join(found.notes))
"""


def test_slow_first_call(tmp_path: Path) -> None:
    """An operator that loads its table when it is first called; a process of its own, whose library it is."""
    library_path()
    nodes = [
        helper.make_node("LazyTable", ["x"], ["t"], domain="ai.onnx.contrib"),
        helper.make_node("Conv", ["t", "w"], ["c"]),
        *pooled(),
    ]
    path = saved(tmp_path / "m.onnx", nodes, weight("w", 8, 3, 3, 3), weight("g", 8, 5), domain="ai.onnx.contrib")
    done = subprocess.run(
        [sys.executable, "-c", LAZY, str(path)], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (note,) = done.stdout.splitlines()
    assert re.match(r"the first run took [1-9][.\d]* s, later ones [\de.-]+ s\. Cause: the first run pays", note)
    assert "operators load what they need. Fix: run one picture before serving" in note
