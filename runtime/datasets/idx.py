"""IDX files, plain or gzip: the format of MNIST and its family (http://yann.lecun.com/exdb/mnist).

Rules:
    * A file of images and a file of labels belong together when their names differ only in
      ``images-idx3`` and ``labels-idx1``.
    * The prefix ``train`` marks the training split, ``t10k`` or ``test`` the test split.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.datasets.base import ArrayDataset, file_fingerprint, to_rgb
from runtime.errors import DatasetError

__all__ = ["SPLIT_PREFIXES", "is_idx", "open_idx", "read_idx"]

SPLIT_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"


def is_idx(path: Path) -> bool:
    """Whether the name of *path* is one of an IDX file with images."""
    name = path.name.removesuffix(".gz")
    return path.is_file() and (name.endswith((".idx", "-ubyte")) or "idx3" in name) and "idx1" not in name


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of unsigned bytes in the IDX file at *path*.

    Raises:
        DatasetError: It is no such file, or shorter or longer than its header says.
    """
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data
        zero, kind, dimensions = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    except (struct.error, EOFError, OSError) as error:
        raise DatasetError(f"{path} is not an IDX file: {error}") from None
    if zero != 0 or kind != UNSIGNED_BYTE:
        raise DatasetError(f"{path} is not an IDX file of bytes: it begins with {data[:4]!r}")
    body = data[4 + 4 * dimensions :]
    if len(body) != math.prod(shape):
        raise DatasetError(f"{path}: the header says {list(shape)}, {len(body)} bytes follow")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _labels_beside(images: Path) -> Path | None:
    labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    return labels if labels != images and labels.is_file() else None


def _choose(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.iterdir() if is_idx(file) and read_header_dimensions(file) == 3)
    if split is not None:
        found = [file for file in found if file.name.startswith(SPLIT_PREFIXES.get(split, (split,)))]
    if not found:
        raise DatasetError(f"{path} has no IDX file of images" + (f" for the split {split!r}" if split else ""))
    return found


def read_header_dimensions(path: Path) -> int:
    """Return the number of dimensions that the header of an IDX file says; 0 if it is none."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == GZIP_MAGIC
    with gzip.open(path) if compressed else path.open("rb") as file:
        header = file.read(4)
    return header[3] if len(header) == 4 and header[:3] == bytes((0, 0, UNSIGNED_BYTE)) else 0


def open_idx(uri: str, path: Path, split: str | None) -> ArrayDataset:
    """Open a file of images, or those of a directory (all of them, or of one *split*).

    Raises:
        DatasetError: There is none, or images and labels do not fit together.
    """
    files = _choose(path, split)
    images, labels, used = [], [], list(files)
    for file in files:
        images.append(read_idx(file))
        if images[-1].ndim != 3:
            raise DatasetError(f"{file} has {images[-1].ndim} dimensions; expected 3: number, height, width")
        beside = _labels_beside(file)
        if beside:
            labels.append(read_idx(beside))
            used.append(beside)
    if labels and len(labels) != len(images):
        raise DatasetError(f"{path}: {len(images)} files of images, {len(labels)} of labels")
    if len({array.shape[1:] for array in images}) > 1:
        raise DatasetError(f"{path}: images of different sizes: {sorted({array.shape[1:] for array in images})}")
    return ArrayDataset(
        uri=uri,
        images=to_rgb(np.concatenate(images)),
        labels=np.concatenate(labels).astype(np.int64) if labels else None,
        label_names=None,
        source_file=str(path),
        fingerprint=file_fingerprint(used),
    )
