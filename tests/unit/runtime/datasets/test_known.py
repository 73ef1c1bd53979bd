"""What is written of boxes, outlines, keypoints and masks reads back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed_rows import Listed
from pycocotools import mask as coder

from runtime.datasets import Dataset, Objects, Row, open_dataset
from runtime.datasets.parquet import write_parquet
from runtime.errors import DatasetError

POLYGONS = [[0.25, 0, 2, 0, 2, 2], [1, 1, 3.5, 1, 3, 3]]
COUNTS = [3, 4, 100, 2, 5000, 1]
PACKED = {"size": [10, 511], "counts": coder.frPyObjects({"size": [10, 511], "counts": COUNTS}, 10, 511)["counts"]}


def row(number: int = 0, **known: Any) -> Row:
    return Row(**{"image": b"x", "label": None, "source_file": "a.png", "source_row": number} | known)


def written(dataset: Dataset, path: Path, **options: Any) -> Dataset:
    write_parquet(dataset, path, **options)
    return open_dataset(str(path))


def objects(*records: Any) -> Objects:
    given = [{"bbox": [0.1, 2, 3.7, 4], "category": 1, **record} for record in records]
    return Objects.parse(given, "here", (480, 640))


def test_objects_come_back_with_everything_that_was_known_of_them(tmp_path: Path) -> None:
    first = objects(
        {"segmentation": POLYGONS, "keypoints": [1, 2, 2, 3.5, 4, 1], "area": 9.5},
        {"segmentation": {"size": [10, 511], "counts": COUNTS}, "iscrowd": 1, "category": 0},
        {"segmentation": PACKED},
        {},
    )
    dataset = Listed([row(objects=first), row(1, objects=objects()), row(2)], ("cat", "kite"))
    again = written(dataset, tmp_path / "x.parquet")
    assert again.label_names == ("cat", "kite")
    found = [one.objects for one in again.rows()]
    assert [one if one is None else len(one) for one in found] == [4, 0, None]
    copy = found[0]
    assert copy is not None
    assert copy.size == (480, 640)
    assert copy.labels.tolist() == [1, 0, 1, 1]
    assert copy.crowd.tolist() == [False, True, False, False]
    np.testing.assert_allclose(copy.boxes, first.boxes, rtol=1e-15)
    np.testing.assert_array_equal(copy.areas, first.areas)
    np.testing.assert_array_equal(copy.keypoints, first.keypoints)  # type: ignore[arg-type]
    packed = {"size": [10, 511], "counts": PACKED["counts"].decode()}
    assert copy.outlines == (POLYGONS, packed, packed, None)


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=20))
def test_run_lengths_are_packed_as_coco_s_own_code_packs_them(tmp_path_factory: Any, counts: list[int]) -> None:
    path = tmp_path_factory.mktemp("rle") / "x.parquet"
    size = [1, sum(counts)]
    outline = {"size": size, "counts": counts}
    found = next(written(Listed([row(objects=objects({"segmentation": outline}))]), path).rows()).objects
    assert found is not None
    expected = coder.frPyObjects(outline, *size)["counts"].decode()
    assert found.outlines == ({"size": size, "counts": expected},)


def test_masks_come_back_byte_for_byte(tmp_path: Path) -> None:
    again = written(Listed([row(mask=b"m"), row(1), row(2, mask=b"n")]), tmp_path / "x.parquet")
    assert [one.mask for one in again.rows()] == [b"m", None, b"n"]
    assert [one.image for one in again.rows()] == [b"x"] * 3


def test_the_layout_is_hugging_face_s(tmp_path: Path) -> None:
    given = objects({"segmentation": POLYGONS})
    write_parquet(Listed([row(objects=given)], ("cat", "kite")), tmp_path / "x.parquet")
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.names == ["image", "objects", "height", "width"]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    inner = features["objects"]["feature"]
    assert list(inner) == [field.name for field in schema.field("objects").type.value_type]
    assert inner["category"] == {"_type": "ClassLabel", "names": ["cat", "kite"]}
    cell = pq.read_table(tmp_path / "x.parquet").to_pylist()[0]
    assert cell["objects"][0]["bbox"] == pytest.approx([0.1, 2, 3.7, 4])
    assert (cell["height"], cell["width"]) == (480, 640)


def test_what_comes_too_late_for_a_column_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    late = Listed([row(0, label=1), row(1, label=2), row(2, objects=objects({}))])
    with pytest.raises(DatasetError, match=r"a\.png, row 2 has objects, which the rows before have not"):
        write_parquet(late, tmp_path / "x.parquet", row_group_rows=2)
    assert list(tmp_path.iterdir()) == []


def test_an_outline_that_is_none_is_refused(tmp_path: Path) -> None:
    strange = replace(objects({}), outlines=({"counts": 5},))
    with pytest.raises(DatasetError, match="an outline is no list of polygons and no run lengths"):
        write_parquet(Listed([row(objects=strange)]), tmp_path / "x.parquet")
