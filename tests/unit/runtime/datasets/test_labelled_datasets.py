"""Boxes, outlines, keypoints and masks: the same objects from every layout, and errors that say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from runtime.datasets import Row, open_dataset
from runtime.errors import DatasetError

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 90, "name": "kite"}, {"id": 3, "name": "dog"}]  # by id: dog cat kite
BOXES = [[1, 2, 3, 4], [0, 0, 2, 2], [4, 4, 1, 1]]


def annotation(number: int, image: int, category: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": BOXES[number], "area": 5, **more}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two pictures, of which the first by name has two objects; a third one is listed and not there."""
    root = tmp_path / "coco"
    root.mkdir()
    for name in ("b.png", "a.png"):
        Image.new("RGB", (8, 6)).save(root / name)
    images = [
        {"id": number, "file_name": name, "width": 8, "height": 6}
        for number, name in enumerate(("b.png", "a.png", "c.png"))
    ]
    annotations = [annotation(0, 1, 90), annotation(1, 1, 3, iscrowd=1), annotation(2, 0, 7)]
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "instances.json").write_text(json.dumps(document))
    return root


def rewrite(path: Path, **changes: Any) -> str:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(path)


def test_coco_annotations_say_what_is_where_in_the_order_of_the_file_names(coco: Path) -> None:
    dataset = open_dataset(str(coco))
    rows = list(dataset.rows())
    assert dataset.label_names == ("dog", "cat", "kite")
    assert [Path(row.source_file).name for row in rows] == ["a.png", "b.png", "c.png"]
    assert [row.image is None for row in rows] == [False, False, True]
    objects = rows[0].objects
    assert objects is not None
    np.testing.assert_array_equal(objects.boxes, [[1, 2, 4, 6], [0, 0, 2, 2]])
    assert (objects.labels.tolist(), objects.crowd.tolist()) == ([2, 0], [False, True])
    assert (objects.areas.tolist(), objects.size, objects.outlines, objects.keypoints) == ([5, 5], (6, 8), None, None)
    assert [len(row.objects or ()) for row in rows] == [2, 1, 0]


def test_annotations_may_lie_beside_the_folder_of_their_split(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    coco.rename(tmp_path / "val2017")
    moved = (tmp_path / "val2017" / "instances.json").rename(tmp_path / "annotations" / "instances_val2017.json")
    rows = list(open_dataset(str(moved)).rows())
    assert [row.image is not None for row in rows] == [True, True, False]


def test_splits_of_a_folder_may_have_annotations_each(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    coco.rename(tmp_path / "set" / "val")
    assert len(open_dataset(f"{tmp_path / 'set'}#test")) == 3


def test_keypoints_and_outlines_come_as_they_are_written(coco: Path) -> None:
    points = [1, 2, 2, 3, 4, 1]
    outline = [[0, 0, 2, 0, 2, 2]]
    path = coco / "instances.json"
    rewrite(path, annotations=[annotation(0, 1, 3, keypoints=points, segmentation=outline), annotation(1, 1, 3)])
    objects = next(open_dataset(str(coco)).rows()).objects
    assert objects is not None
    assert objects.outlines == (outline, None)
    assert objects.keypoints is not None
    assert objects.keypoints.tolist() == [[[1, 2, 2], [3, 4, 1]], [[0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": None}, "has not the lists images, annotations, categories"),
        ({"annotations": [annotation(0, 1, 4)]}, "category 4, which is none of the 3"),
        ({"annotations": [annotation(0, 1, 3) | {"bbox": [1, 2]}]}, "a.png: bbox is not 4"),
        ({"annotations": [annotation(0, 1, 3) | {"bbox": None}]}, "a.png: an object has no bbox"),
        ({"annotations": [annotation(0, 1, 3) | {"bbox": [1, 2, 3, float("nan")]}]}, "bbox is not 4 finite"),
        ({"annotations": [annotation(0, 1, 3, keypoints=[1, 2])]}, "x, y, visibility"),
        ({"categories": [{"id": 3}]}, "every category needs an id and a name"),
        ({"images": [{"id": 1}]}, "every image needs an id and a file_name"),
    ],
)
def test_annotations_that_are_not_coco_s_are_named(coco: Path, changes: dict[str, Any], problem: str) -> None:
    path = rewrite(coco / "instances.json", **changes)
    with pytest.raises(DatasetError, match=problem):
        list(open_dataset(path).rows())


def test_of_several_files_of_annotations_one_must_be_named(coco: Path) -> None:
    (coco / "person_keypoints.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"instances.json, person_keypoints.json\); name the one"):
        open_dataset(str(coco))


def table(path: Path, objects: Any, names: dict[str, Any] | None = None, column: str = "objects") -> str:
    metadata = {"huggingface": json.dumps({"info": {"features": {column: names}}})} if names else None
    pq.write_table(pa.table({"image": [b"x"], column: objects}).replace_schema_metadata(metadata), path)
    return str(path)


CELLS = {
    "struct of lists": {"bbox": BOXES[:2], "category": [1, 0]},
    "list of structs": [{"bbox": BOXES[0], "category": 1}, {"bbox": BOXES[1], "category": 0}],
}
CLASSES = {"names": ["cat", "kite"], "_type": "ClassLabel"}
FEATURES = {
    "struct of lists": {"category": {"feature": CLASSES, "_type": "List"}},
    "list of structs": {"feature": {"category": CLASSES}, "_type": "List"},
}


@pytest.mark.parametrize("layout", CELLS)
def test_objects_in_parquet_are_those_of_hugging_face(tmp_path: Path, layout: str) -> None:
    dataset = open_dataset(table(tmp_path / "x.parquet", [CELLS[layout]], FEATURES[layout]))
    row = next(dataset.rows())
    assert dataset.label_names == ("cat", "kite")
    assert row.objects is not None
    assert row.label is None
    np.testing.assert_array_equal(row.objects.boxes, [[1, 2, 4, 6], [0, 0, 2, 2]])
    assert row.objects.labels.tolist() == [1, 0]
    assert row.objects.areas.tolist() == [12, 4]


def test_a_null_cell_is_no_label_and_unequal_lists_are_an_error(tmp_path: Path) -> None:
    kind = pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category", pa.list_(pa.int64()))])
    null = table(tmp_path / "null.parquet", pa.array([None], kind))
    assert next(open_dataset(null).rows()).objects is None
    unequal = table(tmp_path / "unequal.parquet", [{"bbox": BOXES[:2], "category": [1]}])
    with pytest.raises(
        DatasetError, match=r"row 0: the objects' lists have different lengths: \{'bbox': 2, 'category': 1"
    ):
        list(open_dataset(unequal).rows())


def test_masks_in_parquet_are_found_beside_the_images(tmp_path: Path) -> None:
    for name in ("mask", "annotation", "label"):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"photo": [b"x"], name: [b"m"]}), path)
        row = next(open_dataset(str(path)).rows())
        assert (row.image, row.mask, row.label) == (b"x", b"m", None)


def test_a_column_that_says_something_else_is_no_label(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "annotation": ["a cat"]}), tmp_path / "x.parquet")
    row = next(open_dataset(str(tmp_path / "x.parquet")).rows())
    assert (row.label, row.objects, row.mask) == (None, None, None)
    with pytest.raises(
        DatasetError, match="'annotation' is string; expected integers, struct<bbox, category>, or images"
    ):
        list(open_dataset(str(tmp_path / "x.parquet"), label_column="annotation").rows())


def pairs(root: Path, pictures: str, masks: str) -> list[Row]:
    for folder, suffix, names in ((pictures, "jpg", "abc"), (masks, "png", "ca")):
        (root / folder).mkdir(parents=True)
        for name in names:
            Image.new("L", (4, 4)).save(root / folder / f"{name}.{suffix}")
    return list(open_dataset(str(root)).rows())


@pytest.mark.parametrize(("pictures", "masks"), [("images", "masks"), ("JPEGImages", "SegmentationClass")])
def test_folders_of_pictures_and_masks_pair_by_name(tmp_path: Path, pictures: str, masks: str) -> None:
    rows = pairs(tmp_path / "x", pictures, masks)
    assert [Path(row.source_file).name for row in rows] == ["a.jpg", "c.jpg"]
    assert [row.mask for row in rows] == [(tmp_path / "x" / masks / f"{name}.png").read_bytes() for name in "ac"]


def test_a_mask_without_a_picture_is_an_error(tmp_path: Path) -> None:
    pairs(tmp_path / "x", "images", "masks")
    Image.new("L", (4, 4)).save(tmp_path / "x" / "masks" / "z.png")
    with pytest.raises(DatasetError, match=r"1 masks without a picture in .*: z.png"):
        open_dataset(str(tmp_path / "x"))


def test_real_annotations_and_their_parquet_agree(test_data) -> None:
    folder = open_dataset(str(test_data("images/coco12")))
    parquet = open_dataset(str(test_data("images/coco12_hf.parquet")))
    ids = [one["id"] for one in json.loads(test_data("images/coco12/instances.json").read_text())["categories"]]
    by_bytes = {row.image: row.objects for row in parquet.rows()}
    compared = 0
    for row in folder.rows():
        ours, theirs = row.objects, by_bytes[row.image]
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
        assert [ids[label] for label in ours.labels] == theirs.labels.tolist()
        compared += len(ours)
    assert compared == 90


def listed(root: Path, table: str, name: str = "labels.csv") -> Path:
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / f"{number}.png")
    (root / name).write_text(table, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("name", "table", "names", "labels"),
    [
        ("labels.csv", "file,wnid,index\n2.png,n2,7\n0.png,n0,3\n", None, [3, 7]),
        ("metadata.csv", "\ufefffile_name,label\n2.png,dog\n0.png,kite\n", ("dog", "kite"), [1, 0]),
    ],
)
def test_a_table_beside_the_pictures_says_their_classes(
    tmp_path: Path, name: str, table: str, names: tuple[str, ...] | None, labels: list[int]
) -> None:
    dataset = open_dataset(str(listed(tmp_path, table, name)))
    assert dataset.label_names == names
    assert [(Path(row.source_file).name, row.label) for row in dataset.rows()] == list(
        zip(("0.png", "2.png"), labels, strict=True)
    )
    assert [row.label for row in dataset.rows(1, 2)] == labels[1:]


def test_a_table_of_something_else_leaves_a_folder_of_pictures(tmp_path: Path) -> None:
    rows = list(open_dataset(str(listed(tmp_path, "file_name,text\n0.png,a cat\n"))).rows())
    assert [row.label for row in rows] == [None] * 3


def test_a_listed_picture_that_is_not_there_is_a_row_and_a_class_that_is_not_is_an_error(tmp_path: Path) -> None:
    rows = list(open_dataset(str(listed(tmp_path, "file,label\n0.png,a\nz.png,b\n"))).rows())
    assert [row.image is None for row in rows] == [False, True]
    listed(tmp_path, "file,label\n0.png,a\n1.png,\n")
    with pytest.raises(DatasetError, match=r"labels.csv: 1.png has no label"):
        open_dataset(str(tmp_path))


def test_the_size_that_objects_were_drawn_on_is_read_where_there_is_one(tmp_path: Path) -> None:
    cell = {"bbox": BOXES[:1], "category": [1]}
    columns = {"image": [b"x"], "objects": [cell], "width": [8]}
    pq.write_table(pa.table(columns | {"height": [6]}), tmp_path / "x.parquet")
    pq.write_table(pa.table(columns), tmp_path / "y.parquet")
    found = [next(open_dataset(str(tmp_path / f"{name}.parquet")).rows()).objects for name in "xy"]
    assert [one.size if one else one for one in found] == [(6, 8), None]
