"""What is looked at: a variant of a published model, of an artifact directory, or a bare ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.artifact import Artifact
from runtime.custom_ops import pinned
from runtime.errors import UsageError
from runtime.manifest import CustomOps, Tensor
from runtime.session import Session
from runtime.store import ModelStore, resolve_artifact

__all__ = ["Target", "find_targets", "noise"]

SIDE = 224  # pixels, of a dynamic height or width


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One graph.

    Attributes:
        name: ``MODEL@VERSION``, or the file's name.
        variant: Its id; empty for a bare file.
        path: Of the ONNX file.
        artifact: That it is part of.
        custom_ops: Libraries of operators that it needs.
    """

    name: str
    variant: str
    path: Path
    artifact: Artifact | None = None
    custom_ops: tuple[CustomOps, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".strip()


def find_targets(
    reference: str, variants: Sequence[str] = (), store: ModelStore | None = None, custom_ops: Path | None = None
) -> tuple[Target, ...]:
    """Return the graphs that *reference* means.

    Args:
        reference: ``NAME[@VERSION]``, an artifact directory, or an ``.onnx`` file.
        variants: Only these; all if empty.
        store: Where published models are; the default store if ``None``.
        custom_ops: Library of operators that a bare file needs; manifests name theirs.

    Raises:
        UsageError: There is no such file or variant, a bare file is asked for its variants, or a model is
            given a library.
        VedetteError: The model is not there, or damaged; as `runtime.store.resolve_artifact`.
    """
    path = Path(reference)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise UsageError(f"{reference} does not exist")
        if variants:
            raise UsageError(f"{reference} is one graph; --variant {variants[0]} is for published models")
        return (Target(name=path.name, variant="", path=path, custom_ops=pinned(custom_ops)),)
    if custom_ops is not None:
        raise UsageError(
            f"the manifest of {reference} names the libraries that it needs; --custom-ops is for .onnx files"
        )
    artifact = resolve_artifact(reference, store)
    manifest = artifact.manifest
    wanted = [manifest.variant(one) for one in variants] or manifest.variants
    return tuple(
        Target(
            name=manifest.reference,
            variant=variant.id,
            path=artifact.verified_path(variant),
            artifact=artifact,
            custom_ops=manifest.custom_ops,
        )
        for variant in wanted
    )


def noise(session: Session, count: int) -> npt.NDArray[np.generic]:
    """Return *count* random pictures as *session* takes them; a dynamic height or width is `SIDE` pixels."""
    shape = _filled(session.image, count)
    generator = np.random.default_rng(0)
    dtype = np.dtype(session.image.dtype)
    if np.issubdtype(dtype, np.floating):
        return generator.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(max(limits.min, -128), min(limits.max, 255), shape, dtype=dtype, endpoint=True)


def _filled(tensor: Tensor, count: int) -> tuple[int, ...]:
    batch, *rest = tensor.shape
    if isinstance(batch, int) and count % batch:
        raise UsageError(f"the graph takes batches of {batch}; a batch of {count} was asked for")
    return (batch if isinstance(batch, int) else count, *(size if isinstance(size, int) else SIDE for size in rest))
