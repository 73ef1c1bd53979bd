"""Reads the weights of a JAX model, and puts them into one that they must fit exactly.

Rules:
    * A file is ``.npz`` (one array for each path, such as ``layers/0/kernel``) or ``.msgpack``
      (`flax.serialization`), a directory is an orbax checkpoint. None of them can run code.
    * Weights are told apart by their paths. Orbax's ``value`` at the end of a path does not count.
    * What else a checkpoint holds beside the model's weights (an optimizer's state, a step) is left out; what is
      missing or of another shape is listed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller.errors import ExportError
from runtime.errors import UsageError

__all__ = ["fitting", "flatten", "read_weights"]

LISTED = 5  # paths that an error shows at most

Flat = Mapping[str, Any]


def flatten(tree: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, array) of a tree of mappings and sequences."""
    if isinstance(tree, Mapping):
        inside = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, (tuple, list)):
        inside = [(str(place), value) for place, value in enumerate(tree)]
    else:
        yield path, tree
        return
    for name, value in inside:
        yield from flatten(value, f"{path}/{name}" if path else name)


def _read_npz(path: Path) -> Flat:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name.replace(".", "/"): arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ExportError(f"{path} is no .npz file of arrays: {error}") from None


def _read_msgpack(path: Path) -> Flat:
    from flax.serialization import msgpack_restore

    try:
        return dict(flatten(msgpack_restore(path.read_bytes())))
    except Exception as error:  # noqa: BLE001 -- msgpack and flax have no error in common
        raise ExportError(f"{path} is no msgpack file of flax: {type(error).__name__}: {error}") from None


def _read_orbax(path: Path) -> Flat:
    import orbax.checkpoint

    try:
        restored = orbax.checkpoint.PyTreeCheckpointer().restore(path.resolve())
    except Exception as error:  # noqa: BLE001 -- whatever its backends raise
        raise ExportError(f"{path} is no checkpoint of orbax: {' '.join(str(error).split())[:300]}") from None
    return {name.removesuffix("/value"): value for name, value in flatten(restored)}


READERS: Mapping[str, Callable[[Path], Flat]] = {".npz": _read_npz, ".msgpack": _read_msgpack, "": _read_orbax}
"""By the end of the name; a directory has none."""


def read_weights(path: Path) -> Flat:
    """Return the arrays in *path*, by their paths in the tree.

    Raises:
        UsageError: It does not exist, or nothing here reads it.
        ExportError: It is damaged.
    """
    if not path.exists():
        raise UsageError(f"--weights {path} does not exist")
    reader = READERS.get("" if path.is_dir() else path.suffix.lower() or "none")
    if reader is None:
        raise UsageError(
            f"--weights {path} is not read; expected .npz, .msgpack, or the directory of an orbax checkpoint"
        )
    return reader(path)


def fitting(weights: Flat, wanted: Flat, source: Path) -> dict[str, np.ndarray]:
    """Return those of *weights* that the model wants.

    Args:
        weights: By path.
        wanted: The model's own, by path; their shapes and types count.
        source: Where *weights* come from.

    Raises:
        ExportError: Some are missing, or of another shape.
    """
    missing = [name for name in wanted if name not in weights]
    shapes = [
        f"{name} is {np.shape(weights[name])}, expected {np.shape(value)}"
        for name, value in wanted.items()
        if name in weights and np.shape(weights[name]) != np.shape(value)
    ]
    kinds = {f"missing, beside {_listed(list(weights))}": missing, "of another shape": shapes}
    if wrong := [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds.items() if names]:
        raise ExportError(f"{source} does not fit the model: {'; '.join(wrong)}")
    return {name: np.asarray(weights[name]).astype(value.dtype) for name, value in wanted.items()}


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED]) or 'nothing'}{rest}"
