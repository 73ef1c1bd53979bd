"""Laws that every format keeps: ranges, splits, conversion to Parquet and back, errors of one line."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.datasets import Dataset, Row, Subset, open_dataset, parquet_files, split, split_uri
from runtime.datasets.parquet import write_parquet
from runtime.errors import DatasetError
from runtime.images import load

FORMATS = ["digits", "idx", "folder", "cifar", "parquet", "subset"]
bounds = st.one_of(st.none(), st.integers(-400, 400))


def key(row: Row) -> tuple[Any, ...]:
    image = row.image.tobytes() if isinstance(row.image, np.ndarray) else row.image
    return image, row.label, row.source_file, row.source_row


class Listings(dict[str, list[tuple[Any, ...]]]):
    """All rows of each dataset, by its name; what hypothesis prints of it is short."""

    def __repr__(self) -> str:
        return "listings"


@pytest.fixture(scope="session")
def listings(datasets: dict[str, Dataset]) -> Listings:
    return Listings({name: [key(row) for row in dataset.rows()] for name, dataset in datasets.items()})


@pytest.mark.parametrize("name", FORMATS)
def test_a_listing_has_as_many_rows_as_it_says_each_traceable_and_different(
    datasets: dict[str, Dataset], listings: Listings, name: str
) -> None:
    rows = listings[name]
    assert len(rows) == len(datasets[name]) > 20
    assert len({(file, number) for _, _, file, number in rows}) == len(rows)
    names = datasets[name].label_names
    assert all(isinstance(label, int) and (names is None or 0 <= label < len(names)) for _, label, _, _ in rows)
    assert [key(row) for row in datasets[name].rows()] == rows


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(start=st.one_of(st.just(0), st.integers(-400, 400)), stop=bounds)
def test_a_range_is_the_same_range_of_the_listing(
    datasets: dict[str, Dataset], listings: Listings, name: str, start: int, stop: int | None
) -> None:
    assert [key(row) for row in datasets[name].rows(start, stop)] == listings[name][start:stop]


@pytest.mark.parametrize("name", FORMATS)
def test_every_image_can_be_decoded(datasets: dict[str, Dataset], name: str) -> None:
    for row in datasets[name].rows(0, 10):
        pixels = load(row.image)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.max() > 0


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8)
@given(held_out=st.floats(0.01, 0.9), seed=st.integers(0, 3))
def test_a_split_is_stratified_disjoint_whole_and_repeatable(
    datasets: dict[str, Dataset],
    listings: Listings,
    name: str,
    held_out: float,
    seed: int,
) -> None:
    whole = datasets[name]
    rest, held = split(whole, held_out, seed)
    rest_rows, held_rows = [key(row) for row in rest.rows()], [key(row) for row in held.rows()]
    assert sorted([*rest_rows, *held_rows], key=listings[name].index) == listings[name]
    assert rest_rows == sorted(rest_rows, key=listings[name].index)
    counts, held_counts = (Counter(label for _, label, _, _ in rows) for rows in (listings[name], held_rows))
    for label, count in counts.items():
        assert held_counts[label] == min(max(1, round(held_out * count)), count - 1)
    again = split(whole, held_out, seed)
    assert [part.fingerprint for part in again] == [rest.fingerprint, held.fingerprint]
    assert rest.fingerprint != held.fingerprint
    assert (held.uri, held.label_names, len(held)) == (whole.uri, whole.label_names, len(held_rows))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_may_be_asked_for_in_any_order_and_again(
    datasets: dict[str, Dataset], listings: Listings, name: str
) -> None:
    numbers = (7, 2, 3, 3, 9, 0)
    some = Subset(base=datasets[name], numbers=numbers)
    assert [key(row) for row in some.rows()] == [listings[name][number] for number in numbers]
    assert [key(row) for row in some.rows(1, 4)] == [listings[name][number] for number in numbers[1:4]]
    assert list(some.rows(4, 4)) == []


def test_a_dataset_begins_again_until_there_are_enough_rows(folder: Path) -> None:
    whole = open_dataset(str(folder))
    keys = [key(row) for row in whole.rows()]
    more = Subset.repeated(whole, 100)
    assert len(more) == 100
    assert [key(row) for row in more.rows()] == [*keys, *keys, *keys[:20]]
    assert [key(row) for row in Subset.repeated(whole, 3).rows()] == keys[:3]


def test_another_seed_is_another_split(digits: Dataset) -> None:
    assert split(digits, 0.3, 1)[1].fingerprint != split(digits, 0.3, 2)[1].fingerprint


@pytest.mark.parametrize("held_out", [0, 1, -0.5, 1.5, float("nan")])
def test_a_split_by_no_fraction_is_refused(digits: Dataset, held_out: float) -> None:
    with pytest.raises(DatasetError, match="expected a fraction between 0 and 1"):
        split(digits, held_out)


def test_a_split_that_leaves_nothing_is_refused(tmp_path: Path, folder: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "one.png").write_bytes((next(folder.rglob("*.png"))).read_bytes())
    with pytest.raises(DatasetError, match="2 rows are too few"):
        split(open_dataset(str(tmp_path)), 0.5)


def test_a_split_leaves_a_row_of_every_class_to_learn_from(tmp_path: Path, folder: Path) -> None:
    picture = next(folder.rglob("*.png")).read_bytes()
    for label, count in {"a": 3, "b": 1}.items():
        (tmp_path / label).mkdir()
        for number in range(count):
            (tmp_path / label / f"{number}.png").write_bytes(picture)
    rest, held = split(open_dataset(str(tmp_path)), 0.99)
    assert [row.label for row in rest.rows()] == [0, 1]
    assert [row.label for row in held.rows()] == [0, 0]


@pytest.mark.parametrize("name", FORMATS)
def test_a_dataset_written_as_parquet_comes_back(datasets: dict[str, Dataset], name: str, tmp_path: Path) -> None:
    told: list[int] = []
    target = tmp_path / "deep" / "out.parquet"
    rows = write_parquet(datasets[name], target, row_group_rows=16, advance=told.append).rows
    assert rows == sum(told) == len(datasets[name])
    again = open_dataset(str(target))
    assert again.label_names == datasets[name].label_names
    assert [path.name for path in target.parent.iterdir()] == ["out.parquet"]
    for row, copy in zip(datasets[name].rows(), again.rows(), strict=True):
        assert copy.label == row.label
        assert (copy.source_file, isinstance(copy.image, bytes)) == (str(target), True)
        if isinstance(row.image, bytes):
            assert copy.image == row.image
        else:
            assert np.array_equal(load(copy.image), row.image)


@pytest.mark.parametrize("name", ["idx", "folder", "cifar", "parquet"])
def test_a_fingerprint_follows_the_content(datasets: dict[str, Dataset], name: str) -> None:
    assert open_dataset(datasets[name].uri).fingerprint == datasets[name].fingerprint
    assert len({dataset.fingerprint for dataset in datasets.values()}) == len(datasets)


def test_the_split_in_a_uri() -> None:
    assert split_uri("mnist/#test") == ("mnist/", "test")
    assert split_uri("file:///data/x.parquet") == ("/data/x.parquet", None)
    assert split_uri("digits#") == ("digits", None)


@pytest.mark.parametrize("uri", ["", "#train", "nowhere", "nowhere/#test", "s3://bucket/data"])
def test_what_does_not_exist_is_said(uri: str) -> None:
    with pytest.raises(DatasetError, match=r"does not exist; expected a path or the word 'digits'"):
        open_dataset(uri)


def test_an_empty_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is empty: a directory without files"):
        open_dataset(str(tmp_path))


def test_a_directory_or_a_file_of_something_else_names_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(
            DatasetError, match="one of: Parquet, IDX, CIFAR-10 archive, COCO annotations, image folder"
        ):
            open_dataset(str(place))


@pytest.mark.parametrize("name", ["digits", "idx", "folder", "cifar", "parquet"])
def test_an_unknown_split_is_named(datasets: dict[str, Dataset], name: str) -> None:
    with pytest.raises(DatasetError, match="extra"):
        open_dataset(datasets[name].uri.partition("#")[0] + "#extra")


def test_files_that_are_being_written_are_no_data(tmp_path: Path, parquet: Path) -> None:
    source = next(parquet.glob("*.parquet")).read_bytes()
    for name in (".tmp-x.parquet", "_old.parquet", "_commits/a.parquet", ".cache/b.parquet", "good.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source)
    assert [path.name for path in parquet_files(tmp_path)] == ["good.parquet"]


def test_hidden_images_are_no_data(tmp_path: Path, folder: Path) -> None:
    image = next(folder.rglob("*.png")).read_bytes()
    for name in ("cat/a.png", "cat/._a.png", ".thumbnails/a.png", "dog/.cache/b.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    dataset = open_dataset(str(tmp_path))
    assert dataset.label_names == ("cat", "dog")
    assert [Path(row.source_file).name for row in dataset.rows()] == ["a.png", "b.png"]


def test_a_folder_without_classes_has_no_labels(tmp_path: Path, folder: Path) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))[:3]):
        (tmp_path / f"{number}.PNG").write_bytes(path.read_bytes())
    dataset = open_dataset(str(tmp_path))
    assert dataset.label_names is None
    assert [(Path(row.source_file).name, row.label) for row in dataset.rows()] == [
        ("0.PNG", None),
        ("1.PNG", None),
        ("2.PNG", None),
    ]
    write_parquet(dataset, tmp_path / "out.parquet")
    assert [row.label for row in open_dataset(str(tmp_path / "out.parquet")).rows()] == [None] * 3


def test_a_folder_of_splits_is_not_a_dataset_of_the_classes_train_and_test(tmp_path: Path, folder: Path) -> None:
    image = next(folder.rglob("*.png")).read_bytes()
    for name in ("train/cat/a.png", "train/dog/b.png", "validation/cat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    with pytest.raises(DatasetError, match=r"holds the splits train, validation; choose one: .*#validation"):
        open_dataset(str(tmp_path))
    assert open_dataset(f"{tmp_path}#train").label_names == ("cat", "dog")
    assert len(open_dataset(f"{tmp_path}#test")) == 1
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "d.png").write_bytes(image)
    assert open_dataset(str(tmp_path)).label_names == ("bird", "train", "validation")


def test_an_image_that_vanished_is_a_row_without_an_image(tmp_path: Path, folder: Path) -> None:
    image = next(folder.rglob("*.png")).read_bytes()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(image)
    dataset = open_dataset(str(tmp_path))
    assert len(dataset) == 2
    (tmp_path / "a.png").unlink()
    assert [row.image is None for row in dataset.rows()] == [True, False]


def test_digits_are_real_stratified_and_the_same_everywhere() -> None:
    train, test, whole = (open_dataset(f"digits{part}") for part in ("#train", "#test", ""))
    assert (len(train), len(test), len(whole)) == (1433, 364, 1797)
    assert {row.image.shape for row in test.rows()} == {(8, 8, 3)}
    assert max(int(row.image.max()) for row in test.rows()) == 255
    counts = Counter(row.label for row in test.rows())
    assert min(counts.values()) >= 35
    assert max(counts.values()) <= 37
    assert train.label_names == tuple("0123456789")


def test_an_archive_of_something_else_is_not_read_through(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1000))
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "big", "big")
    with pytest.raises(DatasetError, match=r"has no data_batch_1, .*: not CIFAR-10's Python archive"):
        open_dataset(str(tmp_path / "other.tar.gz"))
