"""IDX files, plain or gzip: the format of MNIST and its family (http://yann.lecun.com/exdb/mnist).

Rules:
    * A file of images and a file of labels belong together when their names differ only in
      ``images-idx3`` and ``labels-idx1``, and perhaps in ``.gz``.
    * Where a file lies there both plain and compressed, it counts once.
    * The prefix ``train`` marks the training split, ``t10k`` or ``test`` the test split.
    * A header is believed only as far as the file can hold what it says.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.datasets.base import ArrayDataset, file_fingerprint, to_rgb
from runtime.errors import DatasetError

__all__ = ["SPLIT_PREFIXES", "is_idx", "open_idx", "read_idx"]

SPLIT_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
MOST_COMPRESSED = 1032  # to one, by deflate (zlib's technical notes)
_Bytes = gzip.GzipFile | BufferedReader
UNREADABLE = (struct.error, EOFError, OSError, zlib.error)


def is_idx(path: Path) -> bool:
    """Whether the name of *path* is one of an IDX file with images."""
    name = path.name.removesuffix(".gz")
    return path.is_file() and (name.endswith((".idx", "-ubyte")) or "idx3" in name) and "idx1" not in name


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of unsigned bytes in the IDX file at *path*.

    Raises:
        DatasetError: It is no such file, or shorter or longer than its header says.
    """
    try:
        with _open(path) as file:
            shape = _read_header(path, file)
            size = math.prod(shape)
            possible = path.stat().st_size * MOST_COMPRESSED
            body = file.read(size + 1) if size <= possible else b""
    except UNREADABLE as error:
        raise DatasetError(f"{path} is not a readable IDX file: {error}") from None
    if len(body) != size:
        found = "more" if len(body) > size else len(body)
        raise DatasetError(f"{path}: the header says {list(shape)}, that is {size} bytes; {found} follow")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _open(path: Path) -> _Bytes:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    return gzip.open(path) if compressed else path.open("rb")


def _read_header(path: Path, file: _Bytes) -> tuple[int, ...]:
    """Return the shape that the header says."""
    start = file.read(4)
    if len(start) < 4 or start[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise DatasetError(f"{path} is not an IDX file of bytes: it begins with {start!r}")
    return struct.unpack(f">{start[3]}I", file.read(4 * start[3]))


def _labels_beside(images: Path) -> Path | None:
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if name == images.name.removesuffix(".gz"):
        return None
    return next((file for end in ("", ".gz") if (file := images.with_name(name + end)).is_file()), None)


def _choose(path: Path, split: str | None) -> list[Path]:
    """Return the files of images that *path* is or holds, those of *split* if there is one asked for."""
    inside = [path] if path.is_file() else sorted(path.iterdir())
    once = {file.name.removesuffix(".gz"): file for file in reversed(inside) if is_idx(file)}  # plain before .gz
    found = [once[name] for name in sorted(once) if path.is_file() or _dimensions(once[name]) == 3]
    if split is not None:
        found = [file for file in found if file.name.startswith(SPLIT_PREFIXES.get(split, (split,)))]
    if not found:
        raise DatasetError(f"{path} has no IDX file of images" + (f" for the split {split!r}" if split else ""))
    return found


def _dimensions(path: Path) -> int:
    """Return the number of dimensions of the IDX file at *path*."""
    try:
        with _open(path) as file:
            return len(_read_header(path, file))
    except UNREADABLE as error:
        raise DatasetError(f"{path} is not a readable IDX file: {error}") from None


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
            if labels[-1].shape != images[-1].shape[:1]:
                raise DatasetError(f"{beside} has shape {labels[-1].shape}; {file.name} has {len(images[-1])} images")
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
