"""Train, import, publish, batch: each framework, on real data, through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Command
from PIL import Image

from cluster import read_output
from runtime.datasets import open_dataset

# Keras asks torch for arrays in the way of NumPy 1.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("framework", "arch", "epochs", "least"),
    [
        ("keras", "keras-tiny", 4, 0.97),
        ("flax", "flax-tiny", 6, 0.97),
        ("sklearn", "hog-svm", None, 0.97),
        ("sklearn", "forest", None, 0.95),
    ],
)
def test_batch_is_as_accurate_as_the_training_said(
    command: Command, tmp_path: Path, framework: str, arch: str, epochs: int | None, least: float
) -> None:
    run, answers = tmp_path / "run", tmp_path / "answers"
    what = ("--data", "digits#train", "--framework", framework, "--arch", arch)
    much = () if epochs is None else ("--epochs", str(epochs))
    code, trained, err = command("train", *what, *much, "--out", run, "--json")
    assert code == 0, err
    assert trained["trainer"] == framework
    accuracy = trained["best"]["accuracy"]
    assert accuracy >= least

    code, imported, err = command("model", "import", run, "--name", "digits", "--precision", "fp32", "--json")
    assert code == 0, err
    assert imported["variants"]["fp32"]["metrics"]["top1"] == pytest.approx(accuracy, abs=1e-6)

    where = ("--model", "digits", "--input", "digits#test", "--output", answers)
    code, _, err = command("batch", "run", *where, "--keep", "label", "--local", "--json")
    assert code == 0, err
    table = read_output(str(answers))
    assert len(table) == trained["held_out"]["rows"]
    right = np.mean(table["label_id"].to_numpy() == table["input_label"].to_numpy())
    assert right == pytest.approx(accuracy, abs=1e-6)

    pictures = [tmp_path / f"{place:02d}.png" for place in range(20)]
    for picture, row in zip(pictures, open_dataset("digits#test").rows(), strict=False):
        Image.fromarray(np.ascontiguousarray(row.image)).save(picture)
    code, predicted, err = command("predict", *pictures, "--model", "digits", "--json")
    assert code == 0, err
    rows = sorted(zip(table["source_row"].to_pylist(), table["label_id"].to_pylist(), strict=True))
    assert [one["label_id"] for one in predicted] == [label for _, label in rows[:20]]
