"""`vedette model compare`, on graphs whose difference is known."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from color_model import write_artifact
from onnx import numpy_helper
from PIL import Image

from controller.cli.models import model
from controller.lifecycle.look.compare import Comparison, Difference, compare
from controller.lifecycle.look.target import find_targets
from runtime.datasets import open_dataset
from runtime.errors import UsageError

GraphMaker = Callable[..., onnx.ModelProto]


def of_files(first: Path, second: Path) -> Comparison:
    return compare(*find_targets(str(first)), *find_targets(str(second)))


@pytest.fixture
def files(conv_graph: GraphMaker, tmp_path: Path) -> tuple[Path, Path]:
    """A graph, and the same with the weights of its last layer rounded."""
    original, rounded = conv_graph(), conv_graph()
    weights = next(one for one in rounded.graph.initializer if one.name == "g")
    values = np.round(numpy_helper.to_array(weights) * 4) / 4
    weights.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "g"))
    paths = tmp_path / "original.onnx", tmp_path / "rounded.onnx"
    for path, graph in zip(paths, (original, rounded), strict=True):
        onnx.save(graph, path)
    return paths


def test_the_layer_that_differs_is_told(files: tuple[Path, Path]) -> None:
    found = of_files(*files)
    convolution, product = found.layers
    assert (convolution.name, convolution.max_abs, convolution.sqnr_db) == ("c", 0, 200)
    assert product.name == "scores"
    assert product.max_abs > 0
    assert 5 < product.sqnr_db < 60
    assert [(one.name, one.max_abs) for one in found.outputs] == [("scores", pytest.approx(product.max_abs, rel=1e-4))]
    assert found.speedup == pytest.approx(found.latency_ms[0] / found.latency_ms[1])
    assert (found.metrics, found.agreement) == ({}, None)
    assert "worst of 2 layers, in the graph's order" in found.as_text()


def test_the_worst_layers_are_listed_in_the_graph_s_order_and_none_is_said() -> None:
    noise = [30.0, *(float(number) for number in range(10, 0, -1))]
    layers = tuple(Difference(name=f"layer{number}", sqnr_db=one, max_abs=1) for number, one in enumerate(noise))
    found = Comparison(first="a", second="b", latency_ms=(2, 1), outputs=(), layers=layers, metrics={}, agreement=None)
    said = found.as_text()
    places = [said.index(f"layer{number} ") for number in range(1, 11)]
    assert places == sorted(places)
    assert "layer0" not in said
    assert "They share no output and no layer" in replace(found, layers=()).as_text()


def test_a_graph_is_the_same_as_itself(files: tuple[Path, Path]) -> None:
    found = of_files(files[0], files[0])
    assert {one.max_abs for one in (*found.outputs, *found.layers)} == {0}


def test_files_of_different_inputs_are_not_compared(
    files: tuple[Path, Path], conv_graph: GraphMaker, tmp_path: Path
) -> None:
    other = tmp_path / "larger.onnx"
    onnx.save(conv_graph(size=16), other)
    with pytest.raises(UsageError, match="a file does not say how pictures are prepared for it"):
        of_files(files[0], other)


@pytest.fixture
def colors(tmp_path: Path) -> str:
    """Six labelled pictures in a Parquet, two of each color."""

    def png(color: int) -> bytes:
        pixels = np.full((8, 8, 3), 40, np.uint8)
        pixels[..., color] = 200
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    path = tmp_path / "colors.parquet"
    pq.write_table(
        pa.table({"image": [png(one % 3) for one in range(6)], "label": [one % 3 for one in range(6)]}), path
    )
    return str(path)


def test_two_versions_are_compared_on_labelled_data(colors: str, tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path / f"color{version}", version)
    first, second = (str(tmp_path / f"color{version}") for version in (1, 2))
    found = compare(*find_targets(first), *find_targets(second), open_dataset(colors))
    assert (found.first, found.second) == ("color@1 fp32", "color@2 fp32")
    assert found.metrics["top1"] == (1.0, 1.0)
    assert found.agreement == 1.0
    (scores,) = found.outputs
    assert scores.sqnr_db == pytest.approx(0, abs=1e-4)  # the second version's scores are twice the first's
    done = CliRunner().invoke(model, ["compare", first, f"{second}#fp32", "--data", colors], catch_exceptions=False)
    assert "top-1" in done.stdout
    assert "agreement" in done.stdout
    printed = json.loads(CliRunner().invoke(model, ["compare", first, second, "--json"], catch_exceptions=False).stdout)
    assert printed["agreement"] is None
