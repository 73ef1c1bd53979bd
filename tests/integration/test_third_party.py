"""A classifier from elsewhere, imported and run over JPEGs in Parquet, answers as its makers' own code does."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import cluster

pytestmark = pytest.mark.integration

VEDETTE = Path(sys.executable).with_name("vedette")
ORIENTATION_TAG = 0x0112


def vedette(*arguments: str | Path) -> str:
    done = subprocess.run([VEDETTE, *arguments], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def orientation(path: Path) -> int:
    with Image.open(path) as image:
        return image.getexif().get(ORIENTATION_TAG, 1)


@pytest.fixture
def photographs(test_data, tmp_path: Path) -> dict[str, int]:
    """Write the 300 photographs to Parquet; return torchvision's label of those that EXIF does not rotate."""
    folder = test_data("images/imagenet300")
    reference = test_data("reference/mobilenet_v2_torchvision_top5.csv")
    answers = {row["file"]: int(row["idx1"]) for row in csv.DictReader(reference.read_text().splitlines())}
    table = pa.table({"image": [(folder / name).read_bytes() for name in answers], "file": list(answers)})
    pq.write_table(table, tmp_path / "photographs.parquet", row_group_size=50)
    upright = {name for name in answers if orientation(folder / name) in {0, 1}}
    return {name: label for name, label in answers.items() if name in upright}


@pytest.mark.parametrize("engine", [(), ("--local",)], ids=["ray", "local"])
def test_mobilenet_agrees_with_torchvision_on_every_photograph(engine, photographs, test_data, tmp_path) -> None:
    model, labels = test_data("models/mobilenet_v2.onnx"), test_data("images/imagenet_labels.txt")
    source, out = tmp_path / "photographs.parquet", tmp_path / "answers"
    how = ("--task", "classification", "--preprocess", "imagenet", "--labels", labels)
    vedette("model", "import", model, "--name", "mobilenet", *how)
    job = ("--model", "mobilenet", "--input", source, "--output", out, "--keep", "file")
    summary = json.loads(vedette("batch", "run", *job, *engine, "--json"))
    answers = cluster.read_output(str(out)).to_pylist()
    found = {row["file"]: row["label_id"] for row in answers}
    assert summary["rows"]["out"] == len(answers) == len(found) == 300
    assert len(photographs) >= 290
    assert {name: found[name] for name in photographs} == photographs
