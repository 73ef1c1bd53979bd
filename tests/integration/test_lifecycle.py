"""Train, resume after a kill, import, publish, predict: through the command line, on real data."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import Command

from controller.lifecycle.variants.kinds import requested
from runtime.datasets import open_dataset
from runtime.hardware import this_machine
from runtime.predictor import Predictor
from runtime.store import ModelStore, resolve_artifact

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

TRAIN = ("train", "--data", "digits#train", "--arch", "tiny", "--seed", "3")


def test_digits_from_training_to_prediction(command: Command, tmp_path: Path) -> None:
    run, poor = tmp_path / "run", tmp_path / "poor"
    code, trained, _ = command(*TRAIN, "--epochs", "6", "--out", run, "--json")
    assert code == 0
    assert trained["held_out"]["uri"] == "digits#test"
    assert trained["best"]["accuracy"] >= 0.97
    code, less, _ = command(*TRAIN, "--epochs", "1", "--out", poor, "--json")
    assert less["best"]["accuracy"] < trained["best"]["accuracy"] - 0.05

    # Whether INT8 is faster depends on the machine, so that it is there is not demanded, but that it is judged.
    code, imported, _ = command("model", "import", run, "--name", "digits", "--task", "classification", "--json")
    assert code == 0
    assert imported["model"] == "digits@1"
    (native,) = requested(("fp32", "int8"), this_machine())
    assert imported["variants"].keys() | imported["rejected"].keys() == {"fp32", native}
    assert imported["variants"]["fp32"]["metrics"]["top1"] == pytest.approx(trained["best"]["accuracy"], abs=0.003)
    assert imported["variants"]["fp32"]["metrics"]["parity_max_abs"] < 1e-4

    predictor = Predictor(resolve_artifact("digits"), provider="cpu")
    rows = list(open_dataset("digits#test").rows())
    predictions = predictor.predict([row.image for row in rows])
    right = np.mean([p.label_id == row.label for p, row in zip(predictions, rows, strict=True)])
    assert right >= 0.97

    assert command("model", "list", "--json")[1][0]["versions"] == [1]
    assert command("model", "show", "digits@latest", "--json")[1]["provenance"]["framework"].startswith("torch ")
    assert command("model", "pull", "digits", tmp_path / "pulled", "--variant", "fp32", "--json")[0] == 0
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == {"manifest.json", "golden.npz", "model.fp32.onnx"}
    assert command("model", "validate", "digits", "--json")[1]["valid"]


def test_killed_training_resumes_to_the_same_bits(command: Command, tmp_path: Path) -> None:
    options = (*TRAIN, "--epochs", "3")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    program = "from runtime.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *options, "--out", str(cut)])
    try:
        deadline = time.monotonic() + 120
        while not (cut / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    done = json.loads((cut / "run.json").read_text())["epochs_done"]
    assert 1 <= done < 3
    code, _, err = command("model", "import", cut, "--name", "cut", "--task", "classification")
    assert code == 1
    assert f"ended after {done} of 3 epochs" in err
    assert command(*options, "--out", cut, "--resume")[0] == 0
    assert command(*options, "--out", whole)[0] == 0
    left, right = (torch.load(run / "last.pt", weights_only=True)["model"] for run in (cut, whole))
    assert all(torch.equal(left[name], right[name]) for name in right)
    assert [path.name for path in cut.iterdir() if path.name.startswith(".tmp")] == []


def test_third_party_classifier_answers_as_its_source_does(
    command: Command, test_data: Callable[[str], Path], tmp_path: Path
) -> None:
    model, names = test_data("models/mobilenet_v2.onnx"), test_data("images/imagenet_labels.txt")
    arguments = ("--task", "classification", "--preprocess", "imagenet", "--labels", names)
    code, imported, err = command("model", "import", model, "--name", "mobilenet", *arguments, "--json")
    assert code == 0
    assert "no int8 variant was built" in err
    assert list(imported["variants"]) == ["fp32"]
    folder = test_data("images/imagenet300")
    with test_data("reference/mobilenet_v2_torchvision_top5.csv").open() as file:
        reference = list(csv.DictReader(file))[:40]
    expected = {row["file"]: int(row["idx1"]) for row in reference}
    predictor = Predictor(resolve_artifact("mobilenet"), provider="cpu")
    found = {name: predictor.predict([folder / name])[0].label_id for name in expected}
    different = {name for name in expected if found[name] != expected[name]}
    assert not different
    code, _, err = command("model", "import", model, "--name", "m", *arguments[:4], "--labels", tmp_path / "none")
    assert code == 2
    assert "does not exist" in err


def write_parquet(path: Path, **columns: pa.Array | list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_wrong_input_is_one_clear_line_and_publishes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = [np.ascontiguousarray(row.image) for row in open_dataset("digits#test").rows(0, 8)]
    pngs = pa.array([_png(image) for image in digits], pa.large_binary())
    write_parquet(tmp_path / "unlabelled.parquet", image=pngs)
    write_parquet(tmp_path / "empty.parquet", image=pngs[:0], label=pa.array([], pa.int64()))
    (tmp_path / "corrupt.parquet").write_bytes((tmp_path / "unlabelled.parquet").read_bytes()[:-9])
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "some.bin").write_bytes(b"?")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "nine.json").write_text('{"crop": [9, 9]}')
    onnx.save(_classifier(), tmp_path / "good.onnx")
    train = ("train", "--arch", "tiny", "--epochs", "1", "--out", "out", "--data")
    bring = ("model", "import", "--name", "bad", "--task", "classification")
    good = (*bring, "good.onnx", "--preprocess", "raw255")
    cases: list[tuple[tuple[str, ...], int, str]] = [
        ((*train, "unlabelled.parquet"), 1, "has no label"),
        ((*train, "empty.parquet"), 1, "is empty"),
        ((*train, "corrupt.parquet"), 1, "not a readable Parquet file"),
        ((*train, "nowhere"), 1, "does not exist"),
        ((*train[:2], "resnet19", *train[3:], "digits"), 2, "unknown architecture 'resnet19'"),
        ((*train, "digits", "--label-column", "x", "--augment", "spin"), 2, "unknown augmentation 'spin'"),
        ((*bring, "broken.onnx", "--preprocess", "imagenet"), 1, "is no ONNX model"),
        ((*bring, "some.bin"), 2, "is none of: a training run, an .onnx file"),
        ((*bring, "none.onnx"), 2, "does not exist"),
        ((*bring, "good.onnx"), 2, "--preprocess is needed"),
        ((*bring, "good.onnx", "--preprocess", "imagnet"), 2, "is no preset"),
        ((*bring, "good.onnx", "--preprocess", "nine.json"), 2, "takes 8 x 8"),
        ((*good, "--labels", "three.txt"), 2, "--labels names 3 classes; the outputs fit classification"),
        ((*good, "--precision", "fp32,int4"), 2, "int4 cannot be built"),
        ((*good, "--precision", "fp32,int8"), 2, "give --evaluation"),
        ((*good, "--head", "yolov8"), 2, "--head yolov8 is for detection"),
        ((*good, "--head", "embedding"), 2, "--head embedding is for embedding"),
        ((*good, "--keypoints", "three.txt"), 2, "--keypoints does not apply"),
        ((*good, "--custom-ops", "none.so"), 2, "is no file"),
        ((*bring[:4], "good.onnx"), 2, "--task is needed for good.onnx"),
        ((*good, "--calibration", "empty.parquet"), 1, "is empty"),
        ((*good, "--evaluation", "unlabelled.parquet"), 1, "has no label"),
        ((*bring[:3], "Bad Name", *bring[4:], "good.onnx"), 2, "no model name"),
        ((*bring[:5], "generation", "good.onnx"), 2, "task 'generation' cannot be imported"),
        ((*bring[:5], "detection", "good.onnx", "--preprocess", "raw255"), 2, "no detection head fits"),
        (("model", "show", "bad"), 1, "no model 'bad'"),
    ]
    for arguments, expected, says in cases:
        code, out, err = command(*arguments)
        errors = [line for line in err.splitlines() if line.startswith("vedette: error: ")]
        assert (code, out, len(errors)) == (expected, "", 1), (arguments, err)
        assert says in errors[0]
        assert "Traceback" not in err
        assert "bug" not in err
    assert ModelStore.open().names() == []


def _png(image: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", image)[1])


def _classifier() -> onnx.ModelProto:
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        small (float[N,3,8,8] x) => (float[N,4] y)
        <float[3,4] w = {1,2,3,4,5,6,7,8,9,1,2,3}> {
            p = GlobalAveragePool(x)
            f = Flatten(p)
            y = MatMul(f, w)
        }
    """)
