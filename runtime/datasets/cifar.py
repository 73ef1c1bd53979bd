"""CIFAR-10's Python archive (https://www.cs.toronto.edu/~kriz/cifar.html): `.tar.gz`, or extracted.

Rules:
    * The batches are pickles; only the types that the real ones hold are unpickled, so that a
      crafted archive runs no code.
    * Nothing is extracted to the disk, and of an archive only the batches that are wanted are read.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from runtime.datasets.base import ArrayDataset, file_fingerprint
from runtime.errors import DatasetError

__all__ = ["is_cifar", "open_cifar"]

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
SPLITS = {None: (*TRAIN, "test_batch"), "train": TRAIN, "test": ("test_batch",)}
META = "batches.meta"
SIDE = 32  # pixels
MAX_BATCH = 1 << 26  # bytes; a real batch has 31 million
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a CIFAR batch")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def is_cifar(path: Path) -> bool:
    """Whether *path* is a tar archive, or a directory with CIFAR's batches."""
    if path.is_dir():
        return (path / META).is_file() or (path / "cifar-10-batches-py" / META).is_file()
    return path.name.endswith((".tar.gz", ".tgz", ".tar")) and path.is_file()


def _contents(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the *wanted* files in the archive or the directory."""
    if path.is_dir():
        root = path if (path / META).is_file() else path / "cifar-10-batches-py"
        yield from ((name, (root / name).read_bytes()) for name in wanted if (root / name).is_file())
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if name in wanted and member.isfile() else None
                if content is not None:
                    yield name, _bounded(path, name, content)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} is not a readable archive: {error}") from None


def _bounded(path: Path, name: str, content: IO[bytes]) -> bytes:
    data = content.read(MAX_BATCH + 1)
    if len(data) > MAX_BATCH:
        raise DatasetError(f"{path}: {name} is not a CIFAR batch: it has more than {MAX_BATCH} bytes")
    return data


def _load(path: Path, name: str, content: bytes) -> dict[bytes, Any]:
    try:
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # noqa: BLE001 - a crafted pickle can fail in any way
        raise DatasetError(f"{path}: {name} is not a CIFAR batch: {error}") from None
    if not isinstance(loaded, dict):
        raise DatasetError(f"{path}: {name} is not a CIFAR batch: it holds {type(loaded).__name__}, expected dict")
    return loaded


def open_cifar(uri: str, path: Path, split: str | None) -> ArrayDataset:
    """Open CIFAR-10: all of it, or the ``train`` or ``test`` *split*.

    Raises:
        DatasetError: A batch is absent or not what it should be.
    """
    if split not in SPLITS:
        raise DatasetError(f"{uri}: CIFAR has the splits train and test, not {split!r}")
    wanted = SPLITS[split]
    loaded = {name: _load(path, name, content) for name, content in _contents(path, (*wanted, META))}
    if absent := [name for name in wanted if name not in loaded]:
        raise DatasetError(f"{path} has no {', '.join(absent)}: not CIFAR-10's Python archive?")
    try:
        planes = np.concatenate([np.asarray(loaded[name][b"data"], np.uint8) for name in wanted])
        labels = np.concatenate([np.asarray(loaded[name][b"labels"], np.int64) for name in wanted])
        images = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        names = tuple(bytes(name).decode() for name in loaded.get(META, {}).get(b"label_names", ()))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{path}: a batch does not hold data and labels as CIFAR-10's do: {error}") from None
    return ArrayDataset(
        uri=uri,
        images=np.ascontiguousarray(images),
        labels=labels,
        label_names=names or None,
        source_file=str(path),
        fingerprint=file_fingerprint([path]),
    )
