"""The verbs that look at a model, on a tiny real one, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from color_model import write_artifact
from PIL import Image

from controller.cli.models import model
from controller.lifecycle.look.profile import summed_up
from controller.lifecycle.look.target import find_targets
from controller.lifecycle.look.view import serve
from runtime.errors import ModelNotFoundError, UsageError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("look") / "color"
    write_artifact(root)
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(model, list(arguments), catch_exceptions=False)


def test_inspect_tells_what_is_in_the_graph(artifact: Path) -> None:
    (found,) = json.loads(run("inspect", str(artifact), "--json").stdout)
    assert found["target"] == "color@1 fp32"
    assert found["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["N", 8, 8, 3]}]
    assert found["outputs"] == [{"name": "scores", "dtype": "float32", "shape": ["N", 3]}]
    assert found["operators"] == {"Cast": 1, "ReduceMean": 1, "Mul": 1}
    assert (found["opsets"], found["ir"], found["macs"]) == ({"ai.onnx": 20}, 10, 0)
    assert found["size"] == (artifact / "model.fp32.onnx").stat().st_size


def test_inspect_shows_metadata_and_operators_of_other_domains(artifact: Path, tmp_path: Path) -> None:
    graph = onnx.load(artifact / "model.fp32.onnx")
    onnx.helper.set_model_props(graph, {"stride": "32", "names": "x" * 300})
    graph.graph.node[2].domain = "com.example"
    graph.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    path = tmp_path / "own.onnx"
    onnx.save(graph, path)
    shown = run("inspect", str(path)).stdout
    assert "metadata stride" in shown
    assert "(300 characters)" in shown
    assert "com.example.Mul" in shown
    assert "opset 1 of com.example" in shown


def test_benchmark_measures_every_combination_and_draws_it(artifact: Path, tmp_path: Path) -> None:
    plot, out = tmp_path / "speed.png", tmp_path / "speed.json"
    options = ["--batch", "1,4", "--threads", "1", "--seconds", "0.05", "--plot", str(plot), "--out", str(out)]
    rows = json.loads(run("benchmark", str(artifact), *options, "--json").stdout)
    assert [(row["variant"], row["batch"]) for row in rows] == [("fp32", 1), ("fp32", 4)]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["p50_ms"])
        assert row["runs"] >= 10
        assert row["memory_mb"] > 20  # Python, NumPy and ONNX Runtime
    assert json.loads(out.read_text()) == rows
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_what_cannot_be_measured_says_why(artifact: Path) -> None:
    shown = run("benchmark", str(artifact), "--provider", "cuda", "--batch", "1", "--threads", "1").stdout
    assert shown.startswith("not measured on cuda: CUDAExecutionProvider is not installed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "0"), "--batch is 0; expected 1 or more"),
        (("--threads", "-1"), "--threads is -1; expected 0 or more"),
        (("--batch", "many"), "--batch is 'many'; expected whole numbers"),
        (("--seconds", "0"), "--seconds is 0; expected more than 0"),
    ],
)
def test_benchmark_refuses_what_makes_no_sense(artifact: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run("benchmark", str(artifact), *options)


def test_profile_sums_up_the_runs_and_keeps_the_trace(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept" / "trace.json"
    found = json.loads(run("profile", str(artifact), "--out", str(out), "--runs", "7", "--json").stdout)
    assert found["runs"] == 7
    assert {row["name"]: row["calls"] for row in found["operators"]} == {"Cast": 1, "ReduceMean": 1, "Mul": 1}
    assert sum(row["share"] for row in found["nodes"]) == pytest.approx(1)
    assert 0 < found["kernels_ms"] <= found["run_ms"]
    assert any(event["name"] == "model_run" for event in json.loads(out.read_text()))
    assert str(out) in run("profile", str(artifact), "--out", str(out)).stdout


def test_kernels_are_summed_up_by_name() -> None:
    def event(duration: int, provider: str = "CPUExecutionProvider") -> dict[str, object]:
        return {"dur": duration, "args": {"op_name": "Conv", "provider": provider}}

    first, second = summed_up(
        [("b", event(1000)), ("a", event(4000)), ("a", event(5000, "XExecutionProvider"))], runs=2
    )
    assert (first.name, first.calls, first.ms, first.share, first.provider) == ("a", 1, 4.5, 0.9, "CPU, X")
    assert (second.name, second.ms) == ("b", 0.5)


def test_targets_are_found_by_file_and_by_variant(artifact: Path) -> None:
    (bare,) = find_targets(str(artifact / "model.fp32.onnx"))
    assert (str(bare), bare.artifact) == ("model.fp32.onnx", None)
    with pytest.raises(UsageError, match="is one graph; --variant int8 is for published models"):
        find_targets(str(bare.path), ["int8"])
    with pytest.raises(UsageError, match=r"none\.onnx does not exist"):
        find_targets("none.onnx")
    with pytest.raises(ModelNotFoundError, match="has no variant 'int8'; it has fp32"):
        find_targets(str(artifact), ["int8"])


def test_view_serves_the_graph_on_this_machine_only(artifact: Path) -> None:
    import urllib.request

    pytest.importorskip("netron")
    (target,) = find_targets(str(artifact))
    with serve(target, browse=False) as served:
        assert served.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(served.address, timeout=10) as page:
            assert b"Netron" in page.read()
