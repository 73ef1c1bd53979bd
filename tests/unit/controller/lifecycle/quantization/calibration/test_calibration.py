"""Ranges measured in two passes, in groups, and from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, MinMaxCalibrater
from quantizable import pictures, preprocessor, uneven_network

from controller.errors import ExportError
from controller.lifecycle.quantization.calibration import calibrate
from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.calibration.methods import METHODS
from controller.lifecycle.quantization.calibration.taps import Taps
from controller.lifecycle.quantization.calibration.tensors import calibrated_tensors
from controller.lifecycle.quantization.quantize import prepare
from runtime.errors import DatasetError, UsageError


@pytest.fixture(scope="module")
def prepared() -> onnx.ModelProto:
    return prepare(uneven_network())


def calibration_of(model: onnx.ModelProto, count: int = 24, cache: Path | None = None) -> Calibration:
    return Calibration(model, pictures(count), preprocessor(), cache=cache)


class Reader(CalibrationDataReader):
    def __init__(self, batches: list[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}


def test_minima_and_maxima_are_those_of_onnx_runtimes_own_calibrator(prepared: onnx.ModelProto, tmp_path: Path) -> None:
    calibration = calibration_of(prepared)
    ours = calibration.ranges("minmax").values
    path = tmp_path / "prepared.onnx"
    onnx.save(prepared, path)
    theirs = MinMaxCalibrater(str(path), augmented_model_path=str(tmp_path / "augmented.onnx"))
    theirs.augment_graph()
    theirs.create_inference_session()
    theirs.collect_data(Reader(list(calibration.batches(4))))
    expected = {
        name: tuple(float(np.squeeze(end)) for end in found.range_value)
        for name, found in theirs.compute_data().data.items()
    }
    measured = calibrated_tensors(prepared).measured
    assert set(measured) <= set(expected)
    for name in measured:
        assert ours[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name


def test_what_a_relu_takes_has_the_range_of_what_it_gives(prepared: onnx.ModelProto) -> None:
    found = calibrated_tensors(prepared)
    assert found.same["c1"] == "r1"
    assert found.same["c2"] == "r2"
    assert "c1" not in found.measured
    values = calibration_of(prepared).ranges("mse").values
    assert values["c1"] == values["r1"]
    assert values["r1"][0] >= 0


def test_groups_give_what_one_run_gives(prepared: onnx.ModelProto) -> None:
    calibration = calibration_of(prepared)
    names = calibrated_tensors(prepared).measured
    batch = next(calibration.batches(2))
    whole = dict(Taps.on(prepared, names, batch).run(batch))
    one = 4 * 8 * 8 * 8  # bytes of one tensor of one picture
    grouped = Taps.on(prepared, names, batch, budget=2 * one)
    assert grouped.pictures == 1
    fixed = Taps.on(prepared, names, batch, fixed_batch=2, budget=2 * one)
    assert fixed.pictures == 2
    for number in range(2):
        for name, values in grouped.run(batch[number : number + 1]):
            np.testing.assert_allclose(values[0], whole[name][number], rtol=1e-5, atol=1e-5)
    assert {name: values.shape for name, values in fixed.run(batch)} == {n: v.shape for n, v in whole.items()}


def test_cache_answers_without_running_the_graph(
    prepared: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {method: calibration_of(prepared, cache=tmp_path).ranges(method) for method in METHODS}

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(calibrate, "measure_extremes", refuse)
    monkeypatch.setattr(calibrate, "measure_histograms", refuse)
    for method in METHODS:
        assert calibration_of(prepared, cache=tmp_path).ranges(method) == first[method]
    with pytest.raises(AssertionError, match="measured again"):
        calibration_of(prepared, count=23, cache=tmp_path).ranges()


def test_damaged_cache_is_measured_anew(prepared: onnx.ModelProto, tmp_path: Path) -> None:
    first = calibration_of(prepared, cache=tmp_path).ranges("mse")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert calibration_of(prepared, cache=tmp_path).ranges("mse") == first


def test_last_pictures_count_unless_the_batch_is_fixed(prepared: onnx.ModelProto) -> None:
    assert calibration_of(prepared, count=21).ranges().images == 21
    fixed = Calibration(prepare(uneven_network(batch=4)), pictures(21), preprocessor(batch=4))
    assert fixed.ranges().images == 20
    with pytest.raises(DatasetError, match="has 3 usable images; calibration needs 4"):
        Calibration(prepare(uneven_network(batch=4)), pictures(3), preprocessor(batch=4)).ranges()


def test_unknown_method_is_refused(prepared: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="method 'distribution' is not known; expected minmax, mse"):
        calibration_of(prepared).ranges("distribution")


def test_infinite_activation_is_named() -> None:
    model = uneven_network()
    for initializer in model.graph.initializer:
        if initializer.name == "b3":
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.full(8, np.inf, np.float32), "b3"))
    with pytest.raises(ExportError, match="tensor 'c3' holds NaN or infinity on a calibration image"):
        calibration_of(prepare(model)).ranges()


def test_prepared_graph_computes_the_same(prepared: onnx.ModelProto) -> None:
    batch = next(calibration_of(prepared).batches(3))

    def answer(model: onnx.ModelProto) -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": batch})[0])

    np.testing.assert_allclose(answer(prepared), answer(uneven_network()), rtol=1e-4, atol=1e-4)
    assert len({node.name for node in prepared.graph.node}) == len(prepared.graph.node)
