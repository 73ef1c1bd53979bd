"""What a column of labels must hold, and what the rows that are looked at before a job tell of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from detection_heads import manifest_of
from PIL import Image

from cluster.errors import InputError, SchemaError
from cluster.input import labels
from cluster.input.labels import LabelColumn, check_evaluable
from cluster.input.sampling import Sample
from cluster.input.sources import Columns, Source, open_source
from runtime.datasets.known import OBJECTS
from runtime.manifest import Manifest

CLASSES = manifest_of("classification", ("cat", "dog"), task="classification")
BOXES = manifest_of("boxes", ("cat", "dog"))
OUTLINES = manifest_of("boxes-seg", ("cat", "dog"), task="segmentation")
POSES = manifest_of("movenet", task="pose", keypoints=("head", "tail"))
MASKS = manifest_of("semantic", ("background", "cat", "dog"), task="segmentation")
VECTORS = manifest_of("embedding", task="embedding")
PLAIN = pa.list_(pa.struct([("bbox", pa.list_(pa.float64())), ("category", pa.int64())]))


def source_of(path: Path, columns: dict[str, Any], *, names: dict[str, Any] | None = None, **more: Any) -> Source:
    """Return the source of a file of pictures, 8 x 8 pixels, with *columns* beside them; *names* are its features."""
    count = len(next(iter(columns.values())))
    table = pa.table({"image": pa.array([png(np.zeros((8, 8)))] * count, pa.binary()), **columns})
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})
    pq.write_table(table, path / "in.parquet", row_group_size=more.pop("row_group", 1000))
    return open_source(str(path / "in.parquet"), Columns(image="image", keep=tuple(columns), **more))


def refused(manifest: Manifest, source: Source, said: str, column: str = "known") -> None:
    with pytest.raises(SchemaError, match=said):
        check_evaluable(manifest, source, column)


def objects(*boxes: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    return [{"bbox": list(box), "category": 0, **more} for box in boxes]


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("manifest", "values", "said"),
    [
        (CLASSES, pa.array([1.0]), "is double; .* is for classification, expected class names or indices"),
        (VECTORS, pa.array([b"a"]), "is binary; .* is for embedding, expected class names or indices"),
        (BOXES, pa.array([1]), r"is int64; .* is for detection, expected struct<bbox, category>, or a list of such"),
        (OUTLINES, pa.array([[]], PLAIN), r"is list<.*; .* is for segmentation, .* with segmentation or rle"),
        (POSES, pa.array([[]], PLAIN), r"is list<.*; .* is for pose, .* with keypoints"),
        (MASKS, pa.array(["a.png"]), "is string; .* expected images of masks as binary or struct<bytes, path>"),
        (MASKS, pa.array([[]], PLAIN), "is list<.*, or objects with segmentation or rle"),
    ],
)
def test_a_type_that_the_task_is_not_judged_by_is_refused(manifest, values, said, tmp_path: Path) -> None:
    refused(manifest, source_of(tmp_path, {"known": values}), f"--evaluate: column 'known' {said}")


@pytest.mark.parametrize(
    ("manifest", "values", "holds"),
    [
        (CLASSES, pa.array(["Dog", None, "cat"]), "text"),
        (CLASSES, pa.array(["dog"]).dictionary_encode(), "text"),
        (CLASSES, pa.array([1, 0, None], pa.uint8()), "label"),
        (VECTORS, pa.array([500, -3]), "label"),
        (VECTORS, pa.array(["anybody"]), "text"),
        (BOXES, pa.array([objects((0, 0, 8, 8)), None, []], PLAIN), "objects"),
        (OUTLINES, pa.array([objects((0, 0, 8, 8), segmentation=[[0, 0, 8, 0, 8, 8]])], OBJECTS), "objects"),
        (MASKS, pa.array([png(np.full((8, 8), 2)), None]), "mask"),
        (MASKS, pa.array([{"bytes": png(np.full((8, 8), 255)), "path": None}]), "mask"),
    ],
)
def test_what_the_task_is_judged_by_is_accepted(manifest, values, holds, tmp_path: Path) -> None:
    found = check_evaluable(manifest, source_of(tmp_path, {"known": values}), "known")
    assert (found.column, found.holds) == ("known", holds)


CATALOG = {"known": {"names": ["dog", "horse", "cat"], "_type": "ClassLabel"}}


def test_a_class_that_the_metadata_names_and_the_model_lacks_is_refused_where_it_occurs(tmp_path: Path) -> None:
    said = r"--evaluate known: 'horse' is no class of the model, .* it has 2: cat, dog"
    refused(CLASSES, source_of(tmp_path, {"known": pa.array([0, 2, 1])}, names=CATALOG), said)
    unused = source_of(tmp_path, {"known": pa.array([0, 2])}, names=CATALOG)
    assert check_evaluable(CLASSES, unused, "known").label_names == ("dog", "horse", "cat")
    filtered = source_of(tmp_path, {"known": pa.array([0, 2, 1])}, names=CATALOG, filter="known != 1")
    assert check_evaluable(CLASSES, filtered, "known").holds == "label"


def test_rows_that_the_sample_leaves_out_are_not_held_against_it(tmp_path: Path) -> None:
    sample = Sample(fraction=0.5, seed=1)
    taken = set(sample.rows(str(tmp_path / "in.parquet"), 0, 20).tolist())
    values = pa.array(["dog" if number in taken else "horse" for number in range(20)])
    assert 0 < len(taken) < 20
    check_evaluable(CLASSES, source_of(tmp_path, {"known": values}, sample=sample), "known")
    refused(CLASSES, source_of(tmp_path, {"known": values}), "'horse' is no class")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([0] * 60 + [7]), "7 is no class of the model"),
        (pa.array([-1] * 61), "-1 is no class of the model"),
        (pa.array(["cat"] * 60 + ["yeti"]), "'yeti' is no class of the model"),
        (pa.array(["yeti", "elf"] * 30 + ["cat"]), "'yeti', 'elf' are no classes of the model"),
    ],
)
def test_classes_are_looked_at_in_many_row_groups(values, said: str, tmp_path: Path) -> None:
    refused(CLASSES, source_of(tmp_path, {"known": values}, row_group=4), said)


def test_a_name_that_two_classes_have_is_none(tmp_path: Path) -> None:
    cranes = manifest_of("classification", ("crane", "dog", "crane"), task="classification")
    refused(cranes, source_of(tmp_path, {"known": pa.array(["dog", "crane"])}), "'crane' is no class .* more than one")


@pytest.mark.parametrize(
    ("manifest", "kind", "cells", "said"),
    [
        (BOXES, PLAIN, [[{"bbox": [0, 0, 1, 1], "category": 5}]], "1 of its classes are none of the model's: 5"),
        (BOXES, PLAIN, [objects((4, 4, 8, 8))], "reaches beyond the picture of 8x8; .* not as corners"),
        (BOXES, PLAIN, [[{"bbox": [0, 0, 1], "category": 0}]], "bbox is not 4 finite numbers"),
        (OUTLINES, OBJECTS, [objects((0, 0, 1, 1))], "has no outline of every object in row 0"),
        (POSES, OBJECTS, [objects((0, 0, 1, 1))], "has no keypoints in row 0"),
        (MASKS, OBJECTS, [objects((0, 0, 1, 1))], "has no outline of every object"),
        (MASKS, pa.binary(), [png(np.zeros((4, 8)))], "is 8x4; the upright picture is 8x8"),
        (MASKS, pa.binary(), [png(np.full((8, 8), 9))], "has the classes 9; the model has 3"),
        (
            MASKS,
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            [{"bytes": None, "path": "m.png"}],
            "row 0: the mask is a path, 'm.png'; expected its bytes",
        ),
    ],
)
def test_what_a_row_shows_is_refused_before_the_job(manifest, kind, cells, said: str, tmp_path: Path) -> None:
    refused(manifest, source_of(tmp_path, {"known": pa.array(cells, kind)}), f"--evaluate known: .*{said}")


def test_boxes_of_a_picture_of_another_size_are_refused(tmp_path: Path) -> None:
    columns = {"known": pa.array([objects((0, 0, 4, 4))], PLAIN), "height": pa.array([9]), "width": pa.array([8])}
    refused(BOXES, source_of(tmp_path, columns), "drawn on a picture of 8x9, upright it has 8x8")


def test_pictures_that_cannot_be_read_tell_no_size_and_hinder_nothing(tmp_path: Path) -> None:
    source = source_of(tmp_path, {"known": pa.array([objects((4, 4, 80, 80))], PLAIN)})
    table = pq.read_table(tmp_path / "in.parquet").set_column(0, "image", pa.array([b"none"], pa.binary()))
    pq.write_table(table, tmp_path / "in.parquet")
    assert check_evaluable(BOXES, source, "known").holds == "objects"


def test_labels_of_a_folder_are_mapped_by_the_names_of_its_folders(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(png(np.zeros((8, 8))))
    source = open_source(str(tmp_path / "set"), Columns(image=None, keep=("label",)))
    assert check_evaluable(CLASSES, source, "label").label_names == ("cat", "dog")
    (tmp_path / "set" / "dog").rename(tmp_path / "set" / "horse")
    source = open_source(str(tmp_path / "set"), Columns(image=None, keep=("label",)))
    refused(CLASSES, source, "'horse' is no class", column="label")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    source = source_of(tmp_path, {"known": pa.array([1, 0])})
    (tmp_path / "in.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"in.parquet, row group 0, cannot be read"):
        check_evaluable(CLASSES, source, "known")


def test_objects_need_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "find_spec", lambda _: None)
    refused(BOXES, source_of(tmp_path, {"known": pa.array([[]], PLAIN)}), "pycocotools, .* pip install 'vedette")


def test_a_null_is_a_row_without_a_label() -> None:
    column = LabelColumn(column="known", holds="objects", truth="objects", label_names=None, uri="in")
    assert column.row(None, "a.parquet", 0) is None
    row = column.row([], "a.parquet", 7)
    assert row is not None
    assert (row.source_row, len(row.objects or ())) == (7, 0)
