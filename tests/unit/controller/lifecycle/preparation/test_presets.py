"""Presets, files, and how both are made to fit a graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.lifecycle.graph import ImageInput
from controller.lifecycle.preparation.fitting import Suggestion, complete
from controller.lifecycle.preparation.preprocessors import READERS
from controller.lifecycle.preparation.presets import PRESETS, resolve_preprocess
from runtime.errors import UsageError
from runtime.manifest import Preprocess, Resize, Tensor
from runtime.preprocess import Preprocessor, normalize

DOCUMENT = Path(__file__).parents[5] / "docs" / "preprocessing.md"
BLACK_AND_WHITE = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


def graph(height: int | str, width: int | str, dtype: str = "float32") -> ImageInput:
    return ImageInput(name="x", dtype=dtype, layout="NCHW", batch="N", height=height, width=width, channels=3)


def test_a_preset_or_a_strict_file(tmp_path: Path) -> None:
    assert resolve_preprocess("imagenet").crop == (224, 224)
    path = tmp_path / "own.json"
    own = {"color": "BGR", "resize": {"mode": "exact", "size": [20, 30]}, "mean": [1, 2, 3]}
    path.write_text(json.dumps(own))
    found = resolve_preprocess(str(path))
    assert found == Preprocess(color="BGR", resize=Resize(mode="exact", size=(20, 30)), mean=(1, 2, 3))
    path.write_text(json.dumps({**own, "means": [1, 2, 3]}))
    with pytest.raises(UsageError, match=r"own\.json is not valid: means: Extra inputs"):
        resolve_preprocess(str(path))
    for text in ("{", "[]", "", "null", "# yaml: 1"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"own\.json is not valid: .*expected Vedette's own preprocess object"):
            resolve_preprocess(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as UTF-8"):
        resolve_preprocess(str(path))
    with pytest.raises(UsageError, match=r"'imagnet' is no preset \(imagenet, .*symmetric\) and no file"):
        resolve_preprocess("imagnet")


@pytest.mark.parametrize(
    ("preset", "black", "white"),
    [
        ("imagenet", [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]),
        ("yolo", [0, 0, 0], [1, 1, 1]),
        ("yolox", [0, 0, 0], [255, 255, 255]),
        ("coco-detr", [0, 0, 0], [1, 1, 1]),
        ("siglip", [-1, -1, -1], [1, 1, 1]),
        ("movenet", [0, 0, 0], [255, 255, 255]),
        ("efficientnet-lite", [-127 / 128] * 3, [1, 1, 1]),
        ("minus127", [-127 / 128] * 3, [1, 1, 1]),
        ("caffe", [-103.939, -116.779, -123.68], [151.061, 138.221, 131.32]),
        ("raw255", [0, 0, 0], [255, 255, 255]),
        ("unit", [0, 0, 0], [1, 1, 1]),
        ("symmetric", [-1, -1, -1], [1, 1, 1]),
    ],
)
def test_presets_bring_black_and_white_where_their_models_expect_it(
    preset: str, black: list[float], white: list[float]
) -> None:
    np.testing.assert_allclose(normalize(BLACK_AND_WHITE, PRESETS[preset]), [black, white], rtol=1e-5, atol=1e-6)


def test_every_preset_and_reader_is_documented() -> None:
    rows = {line.split("|")[1].strip(" `") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")}
    assert set(PRESETS) <= rows
    text = DOCUMENT.read_text()
    assert [reader.what for reader in READERS if reader.what.split("'")[0] not in text] == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(96, 96), (224, 224), (300, 200), (640, 640)])
def test_every_preset_fits_every_graph_of_fixed_size(preset: str, size: tuple[int, int]) -> None:
    fitted = complete(PRESETS[preset], graph(*size))
    assert type(fitted) is Preprocess
    tensor = Tensor(name="x", dtype="float32", shape=("N", 3, *size))
    for shape in ((50, 400, 3), (400, 50, 3), (333, 500, 3)):
        assert Preprocessor(fitted, tensor)(np.zeros(shape, np.uint8)).shape == (3, *size)


@pytest.mark.parametrize(
    ("preset", "size", "resize", "crop"),
    [
        ("imagenet", (240, 240), Resize(size=274), (240, 240)),
        ("imagenet", (20, 30), Resize(size=34), (20, 30)),
        ("clip", (336, 336), Resize(size=336, interpolation="bicubic"), (336, 336)),
        ("yolo", (416, 640), Resize(mode="letterbox", size=(416, 640), antialias=False), None),
        ("coco-detr", (320, 320), Resize(mode="exact", size=(320, 320), antialias=False), None),
        ("raw255", (20, 30), Resize(mode="exact", size=(20, 30)), None),
    ],
)
def test_a_presets_size_yields_to_the_graphs(
    preset: str, size: tuple[int, int], resize: Resize, crop: tuple[int, int] | None
) -> None:
    notes: list[str] = []
    fitted = complete(PRESETS[preset], graph(*size), notes.append)
    assert (fitted.resize, fitted.crop) == (resize, crop)
    assert (len(notes) == 1) == (preset != "raw255")


def test_what_became_of_a_preset_is_said() -> None:
    notes: list[str] = []
    complete(PRESETS["imagenet"], graph(240, 240), notes.append)
    complete(PRESETS["imagenet"], graph(224, 224), notes.append)
    assert notes == [
        "input 'x' takes 240x240 pixels: shortest-edge 274, crop 240x240, not shortest-edge 256, crop 224x224"
    ]


@settings(max_examples=100)
@given(height=st.integers(8, 600), width=st.integers(8, 600), preset=st.sampled_from(["imagenet", "dinov2", "clip"]))
def test_a_classifier_keeps_the_share_of_the_picture_that_it_sees(height: int, width: int, preset: str) -> None:
    fitted = complete(PRESETS[preset], graph(height, width))
    own = PRESETS[preset]
    assert fitted.resize is not None
    assert own.resize is not None
    share = max(fitted.crop or ()) / fitted.resize.size
    assert share == pytest.approx(224 / own.resize.size, rel=1 / max(height, width))
    assert fitted.resize.size >= max(height, width)  # the crop is never filled up


def test_a_resize_before_a_crop_scales_with_it() -> None:
    deit = Suggestion(resize=Resize(mode="exact", size=(256, 256)), crop=(224, 224))
    fitted = complete(deit, graph(384, 112))
    assert (fitted.resize, fitted.crop) == (Resize(mode="exact", size=(438, 128)), (384, 112))
    assert complete(Suggestion(crop=(224, 224)), graph(100, 90)).crop == (100, 90)


def test_a_shortest_edge_without_crop_becomes_the_graphs_size() -> None:
    notes: list[str] = []
    fitted = complete(Suggestion(resize=Resize(size=520)), graph(520, 520), notes.append)
    assert fitted.resize == Resize(mode="exact", size=(520, 520))
    assert notes == ["input 'x' takes 520x520 pixels: exact 520x520, not shortest-edge 520"]


def test_a_graph_of_any_size_takes_the_presets() -> None:
    assert complete(PRESETS["yolo"], graph("h", "w")) == PRESETS["yolo"].plain()
    half_fixed = complete(PRESETS["yolo"], graph(320, "w"))
    assert half_fixed.resize is not None
    assert half_fixed.resize.size == (320, 640)
    with pytest.raises(UsageError, match=r"any size \(h x w\).*\"resize\": null"):
        complete(PRESETS["raw255"], graph("h", "w"))


def test_pictures_stay_as_large_as_they_are_only_if_that_is_said_outright() -> None:
    as_they_are = Preprocess.model_validate_json('{"resize": null}')
    assert complete(as_they_are, graph("h", "w")).resize is None
    with pytest.raises(UsageError, match="any size"):
        complete(Preprocess(), graph("h", "w"))


@pytest.mark.parametrize(
    ("preprocess", "says"),
    [
        (Preprocess(crop=(20, 31)), "leads to 20 x 31 pixels .*, input 'x' takes 20 x 30"),
        (Preprocess(resize=Resize(size=20)), "leads to any x any pixels"),
        (Preprocess(resize=Resize(mode="letterbox", size=30)), "leads to 30 x 30 pixels"),
    ],
)
def test_what_was_written_for_a_model_does_not_yield(preprocess: Preprocess, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        complete(preprocess, graph(20, 30))
    fitting = Preprocess(resize=Resize(mode="letterbox", size=(20, 30)))
    assert complete(fitting, graph(20, 30)) == fitting


def test_raw_pixels_go_into_int8_less_128() -> None:
    notes: list[str] = []
    fitted = complete(PRESETS["raw255"], graph(8, 8, "int8"), notes.append)
    assert fitted.mean == (128.0,) * 3
    assert notes == ["input 'x' is int8: pixels go in as pixel - 128"]
    for dtype in ("uint8", "int32", "float32"):
        assert complete(PRESETS["raw255"], graph(8, 8, dtype)).mean == (0.0,) * 3


@pytest.mark.parametrize(
    ("preprocess", "dtype", "says"),
    [
        (PRESETS["imagenet"], "int8", "values from -2.118 to 2.64, which input 'x', being int8, would get rounded"),
        (PRESETS["unit"], "uint8", "rounded to whole numbers"),
        (PRESETS["caffe"], "int8", r"from -123\.7 to 151\.1, input 'x' is int8 \(-128 to 127\)"),
        (Preprocess(), "int8", r"from 0 to 255, input 'x' is int8 \(-128 to 127\)"),
    ],
)
def test_an_input_of_integers_must_hold_what_pixels_become(preprocess: Preprocess, dtype: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        complete(preprocess, graph(8, 8, dtype))
    embedded = preprocess.model_copy(update={"embedded": True})
    assert complete(embedded, graph(8, 8, dtype)).embedded


def test_channels_that_the_graph_does_not_take_are_refused_with_the_colour_that_it_does() -> None:
    gray = replace(graph(8, 8), channels=1)
    with pytest.raises(UsageError, match="color RGB, input 'x' takes 1 channel; give --preprocess FILE with color 'L'"):
        complete(PRESETS["unit"], gray)
    preprocess = Preprocess(color="L", mean=(0.0,), std=(1.0,))
    assert complete(preprocess, gray).color == "L"
    with pytest.raises(UsageError, match=r"color L, input 'x' takes 3 channels; .* with color 'RGB'"):
        complete(preprocess, graph(8, 8))
