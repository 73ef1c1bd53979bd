"""Datasets: rows of images from Parquet, image folders, IDX, CIFAR's archive, and `digits`.

A URI is a path, or the word ``digits``; a fragment chooses a split: ``digits#test``, ``mnist/#train``.
The format is found out by looking, in the order of one table. A folder of images may have COCO's annotations, a table
of classes, or masks beside it (`LABELLED_FOLDERS`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from runtime.datasets.base import ArrayDataset, Dataset, Row, Subset
from runtime.datasets.cifar import is_cifar, open_cifar
from runtime.datasets.coco import CocoDataset, annotations_in
from runtime.datasets.digits import open_digits
from runtime.datasets.folder import IMAGE_SUFFIXES, SPLIT_FOLDERS, FolderDataset, has_images
from runtime.datasets.idx import is_idx, open_idx
from runtime.datasets.listed import ListedDataset, table_in
from runtime.datasets.objects import Objects
from runtime.datasets.pairs import PairsDataset, mask_folder
from runtime.errors import DatasetError

__all__ = [
    "PARQUET_SUFFIXES",
    "ArrayDataset",
    "Dataset",
    "Objects",
    "Row",
    "Subset",
    "is_parquet_data",
    "open_dataset",
    "parquet_files",
    "split",
    "split_uri",
    "splits_of",
]

DIGITS = "digits"
PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What was asked for."""

    uri: str
    path: Path
    split: str | None
    image_column: str | None
    label_column: str | None


def split_uri(uri: str) -> tuple[str, str | None]:
    """Return (location, split) of *uri*: ``mnist/#test`` is ``mnist/`` and ``test``."""
    location, _, fragment = uri.removeprefix("file://").partition("#")
    return location, fragment or None


def parquet_files(path: Path) -> list[Path]:
    """Return the Parquet files that *path* is or holds, by name; names and folders with ``.`` or ``_`` are not data."""
    if path.is_file():
        return [path] if path.suffix in PARQUET_SUFFIXES else []
    found = (file for suffix in PARQUET_SUFFIXES for file in path.rglob(f"*{suffix}"))
    return sorted(file for file in found if is_parquet_data(file.relative_to(path)))


def is_parquet_data(name: PurePath) -> bool:
    """Whether a file of that *name*, relative to its dataset, is Parquet, and not hidden by ``.`` or ``_``."""
    return name.suffix in PARQUET_SUFFIXES and not any(part[0] in "._" for part in name.parts)


def splits_of(name: PurePath) -> set[str]:
    """Return the splits that a file may belong to by its *name* relative to its dataset: ``train-00000-of-2``."""
    return {*name.parts[:-1], name.name.split("-")[0], name.stem}


def _open_parquet(request: _Request) -> Dataset:
    from runtime.datasets.parquet import ParquetDataset

    files = parquet_files(request.path)
    if request.split is not None:
        files = [file for file in files if request.split in splits_of(_name_in(file, request.path))]
        if not files:
            raise DatasetError(f"{request.uri}: no Parquet file of {request.path} belongs to split {request.split!r}")
    return ParquetDataset(request.uri, tuple(files), request.image_column, request.label_column)


def _name_in(file: Path, root: Path) -> PurePath:
    return file.relative_to(root) if file != root else PurePath(file.name)


def _with_annotations(uri: str, directory: Path) -> Dataset | None:
    annotations = annotations_in(directory)
    return None if annotations is None else CocoDataset(uri, annotations)


def _with_table(uri: str, directory: Path) -> Dataset | None:
    table = table_in(directory)
    return None if table is None else ListedDataset(uri, table)


def _with_masks(uri: str, directory: Path) -> Dataset | None:
    folders = mask_folder(directory, IMAGE_SUFFIXES)
    return None if folders is None else PairsDataset(uri, *folders, IMAGE_SUFFIXES)


LABELLED_FOLDERS: Sequence[Callable[[str, Path], Dataset | None]] = (
    _with_annotations,
    _with_table,
    _with_masks,
)
"""What a folder of images may be beside classes in sub-folders; ``None`` if it is not."""


def _open_folder(request: _Request) -> Dataset:
    directory = _split_folder(request)
    found = (opened for opener in LABELLED_FOLDERS if (opened := opener(request.uri, directory)) is not None)
    return next(found, None) or FolderDataset(request.uri, directory)


def _split_folder(request: _Request) -> Path:
    if request.split is None:
        return request.path
    for name in SPLIT_FOLDERS.get(request.split, (request.split,)):
        if (request.path / name).is_dir():
            return request.path / name
    raise DatasetError(f"{request.uri}: {request.path} has no folder for the split {request.split!r}")


def _open_coco(request: _Request) -> Dataset:
    if request.split is not None:
        raise DatasetError(f"{request.uri}: a file of annotations has no splits; name that of the split")
    return CocoDataset(request.uri, request.path)


def _open_idx(request: _Request) -> Dataset:
    return open_idx(request.uri, request.path, request.split)


def _open_cifar(request: _Request) -> Dataset:
    return open_cifar(request.uri, request.path, request.split)


def _has_idx(path: Path) -> bool:
    return is_idx(path) or (path.is_dir() and any(is_idx(file) for file in path.iterdir()))


FORMATS: Sequence[tuple[str, Callable[[Path], bool], Callable[[_Request], Dataset]]] = (
    ("Parquet", lambda path: bool(parquet_files(path)), _open_parquet),
    ("IDX", _has_idx, _open_idx),
    ("CIFAR-10 archive", is_cifar, _open_cifar),
    ("COCO annotations", lambda path: path.is_file() and path.suffix == ".json", _open_coco),
    ("image folder", lambda path: path.is_dir() and has_images(path), _open_folder),
)


def open_dataset(uri: str, *, image_column: str | None = None, label_column: str | None = None) -> Dataset:
    """Open the dataset at *uri*; of the data itself as little as possible is read.

    Args:
        uri: A path or ``digits``, with an optional ``#split``.
        image_column: Of Parquet; found out if ``None``.
        label_column: Of Parquet; ``label`` if ``None`` and there is one.

    Raises:
        DatasetError: There is nothing, nothing known, nothing in it, or not what was asked for.
    """
    location, wanted = split_uri(uri)
    if location == DIGITS:
        return open_digits(uri, wanted)
    path = Path(location)
    if not location or not path.exists():
        raise DatasetError(f"dataset {location!r} does not exist; expected a path or the word {DIGITS!r}")
    request = _Request(uri=uri, path=path, split=wanted, image_column=image_column, label_column=label_column)
    for _, recognizes, opener in FORMATS:
        if recognizes(path):
            dataset = opener(request)
            if not len(dataset):
                raise DatasetError(f"dataset {uri} is empty: it has no rows")
            return dataset
    if path.is_dir() and not any(path.iterdir()):
        raise DatasetError(f"dataset {location} is empty: a directory without files")
    known = ", ".join(name for name, _, _ in FORMATS)
    raise DatasetError(f"{location} is no dataset that can be read; expected one of: {known}, or the word {DIGITS!r}")


def split(dataset: Dataset, held_out: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Cut *dataset* in two, stratified by label, the same way for the same *seed*.

    Args:
        dataset: To cut.
        held_out: Fraction of each class that the second part gets: at least one row of each class and never
            all of them, so a class with a single row is not held out.
        seed: Which rows these are.

    Returns:
        What is left, and what was held out.

    Raises:
        DatasetError: *held_out* is no fraction, or no class has two rows.
    """
    if not 0 < held_out < 1:
        raise DatasetError(f"{dataset.uri}: cannot hold out {held_out:g} of it; expected a fraction between 0 and 1")
    by_label: defaultdict[int | None, list[int]] = defaultdict(list)
    for number, row in enumerate(dataset.rows()):
        by_label[row.label].append(number)
    chooser = random.Random(seed)  # noqa: S311 - which rows are held out is no secret
    chosen: set[int] = set()
    for label in sorted(by_label, key=str):
        numbers = by_label[label]
        wanted = max(1, round(held_out * len(numbers)))
        chosen.update(chooser.sample(numbers, min(wanted, len(numbers) - 1)))  # what is judged must be learned, too
    rest = tuple(number for number in range(len(dataset)) if number not in chosen)
    if not chosen:
        raise DatasetError(f"{dataset.uri}: {len(dataset)} rows are too few to hold some of each class out")
    return Subset(base=dataset, numbers=rest), Subset(base=dataset, numbers=tuple(sorted(chosen)))
