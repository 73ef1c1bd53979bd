"""Which data calibrate and judge an import, and so which variants are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from controller.lifecycle.data import ImportData, find_data
from controller.lifecycle.importers import ImportedModel, load_source
from controller.lifecycle.request import ImportRequest
from controller.lifecycle.variants.kinds import VARIANTS
from runtime.errors import UsageError
from runtime.hardware import Part, this_machine
from runtime.manifest import Task

GraphMaker = Callable[..., onnx.ModelProto]
TRAIN, TEST = "digits#train", "digits#test"


@pytest.fixture
def imported(conv_graph: GraphMaker, tmp_path: Path) -> Iterator[ImportedModel]:
    path = tmp_path / "source.onnx"
    onnx.save(conv_graph(), path)
    with load_source(str(path)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine with VNNI and no accelerator."""
    here = replace(this_machine(), cpu_flags=frozenset({"avx512_vnni"}), parts=frozenset({Part.CPU}))
    monkeypatch.setattr("controller.lifecycle.data.this_machine", lambda: here)


def found(imported: ImportedModel, task: Task = "classification", **fields: object) -> ImportData:
    return find_data(ImportRequest(source="source.onnx", name="m", **fields), imported, task)


def test_what_this_machine_can_judge_is_built_when_nothing_is_said(imported: ImportedModel) -> None:
    data = found(imported, calibration=TRAIN, evaluation=TEST)
    assert data.variants == ("int8-u8s8",)
    assert data.notes == ()


@pytest.mark.parametrize(
    ("given", "why"),
    [({}, "no --calibration"), ({"evaluation": TEST}, "no --calibration")],
)
def test_what_lacks_data_is_not_built_and_said(imported: ImportedModel, given: dict[str, str], why: str) -> None:
    data = found(imported, **given)
    assert data.variants == ()
    assert f"no int8 variant was built: {why}" in data.notes


def test_images_that_calibrate_and_judge_are_said(imported: ImportedModel) -> None:
    said = "the same images calibrate and judge: on others the figures of int8 may be lower"
    assert said in found(imported, calibration=TEST, evaluation=TEST).notes
    assert said not in found(imported, calibration=TEST, evaluation=TEST, precisions=("fp32",)).notes


def test_all_means_what_suits_the_graph_and_a_name_means_itself(imported: ImportedModel) -> None:
    every = found(imported, calibration=TRAIN, evaluation=TEST, precisions=("all",))
    assert set(every.variants) == VARIANTS.keys() - {"int8-dynamic"}
    assert "int8-dynamic was not built: it is for graphs of matrix products" in every.notes
    named = found(imported, calibration=TRAIN, evaluation=TEST, precisions=("fp32", "int8-dynamic"))
    assert named.variants == ("int8-dynamic",)


def test_classifier_is_judged_by_rows_that_are_held_out_of_the_calibration(imported: ImportedModel) -> None:
    data = found(imported, calibration=TRAIN)
    assert data.calibration is not None
    assert data.evaluation is not None
    assert data.evaluation.uri == TEST


@pytest.mark.parametrize(
    ("task", "lacks"),
    [("detection", "boxes"), ("segmentation", "masks or outlines"), ("pose", "keypoints")],
)
def test_pictures_that_say_nothing_of_a_task_do_not_judge_it(imported: ImportedModel, task: Task, lacks: str) -> None:
    data = found(imported, task, calibration=TRAIN, evaluation=TEST)
    assert (data.variants, data.evaluation) == ((), None)
    assert data.pictures is data.calibration
    assert f"accuracy was not measured: {TEST} has no {lacks}, which {task} is judged by" in data.notes
    assert "no int8 variant was built: nothing to judge it by" in data.notes
    with pytest.raises(UsageError, match="int8-u8s8 must be judged on labelled images: give --evaluation URI"):
        found(imported, task, calibration=TRAIN, evaluation=TEST, precisions=("fp32", "int8"))


def test_detector_with_labelled_boxes_is_quantized(imported: ImportedModel, test_data: Callable[[str], Path]) -> None:
    boxes = str(test_data("images/coco12"))
    data = found(imported, "detection", calibration=boxes, evaluation=boxes)
    assert data.variants == ("int8-u8s8",)


def test_source_in_another_precision_is_published_as_it_is(imported: ImportedModel) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(imported.graph)
    for weight in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == "float32":
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), weight.name))
    half = replace(imported, graph=graph)
    assert found(half, calibration=TRAIN, evaluation=TEST).variants == ()
    with pytest.raises(UsageError, match="int8-u8s8 cannot be built: the source is in fp16 already"):
        found(half, calibration=TRAIN, evaluation=TEST, precisions=("fp32", "int8-u8s8"))
