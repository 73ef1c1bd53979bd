"""What a job takes to the cluster: our code, and the model where only this machine has it.

Rules:
    * The code that runs is the code that submitted: the packages `cluster` and `runtime` travel as they are here.
      Their libraries (ONNX Runtime, Arrow, ...) are the cluster's.
    * A model of a directory or of a store on this machine travels with the job. One in an object store does not:
      the job pulls the version that was the newest when it was submitted.
    * Ray names what is uploaded by its content: what the cluster has is not sent again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.storage import is_remote
from runtime import __version__
from runtime.artifact import Artifact
from runtime.manifest import MANIFEST_FILE
from runtime.store import ModelStore, parse_reference, resolve_artifact

__all__ = ["CODE", "Models", "find_models", "luggage"]

CODE = ("cluster", "runtime")  # the packages that a job needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a job.

    Attributes:
        carried: Those that travel with it.
        references: Digest of the manifest by ``NAME@VERSION``, of those that the job finds in *store*.
        store: URI of an object store; ``None`` if all are carried.
    """

    carried: tuple[Artifact, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the manifest by ``NAME@VERSION``, of all."""
        return {artifact.manifest.reference: artifact.digest for artifact in self.carried} or dict(self.references)

    @property
    def on_cluster(self) -> list[str]:
        """What ``--model`` is for each, where the job runs."""
        return [f"./{_folder(artifact)}" for artifact in self.carried] or list(self.references)


def find_models(references: Sequence[str], store: str | None) -> Models:
    """Return what *references* mean: paths, or models of *store* (``None``: the default one).

    Raises:
        ModelNotFoundError: There is no such model.
        ArtifactError: A file of it is damaged.
        StoreError: The store cannot be read.
    """
    if store is None or not is_remote(store):
        opened = ModelStore.open(store) if store else None
        return Models(carried=tuple(resolve_artifact(reference, opened) for reference in references))
    opened = ModelStore.open(store)
    pinned = {}
    for name, version in map(parse_reference, references):
        found = opened.latest(name) if version is None else version
        pinned[f"{name}@{found}"] = hashlib.sha256(opened.manifest_bytes(name, found)).hexdigest()
    return Models(references=pinned, store=store)


def _folder(artifact: Artifact) -> str:
    return f"models/{artifact.manifest.reference}"


@contextmanager
def luggage(models: Models, more: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the runtime environment of a job with *models*; what it names is on this disk while inside.

    Args:
        models: Of the job.
        more: Further keys of Ray's runtime environment; ``env_vars`` is merged, others replace ours.
    """
    with TemporaryDirectory(prefix="vedette-job-") as name:
        root = Path(name)
        _write_version(root)
        for artifact in models.carried:
            _copy(artifact, root / _folder(artifact))
        given = dict(more or {})
        variables = {"RAY_USAGE_STATS_ENABLED": "0", **given.pop("env_vars", {})}
        yield {"working_dir": str(root), "py_modules": code(), "env_vars": variables, **given}


def code() -> list[str]:
    """Return the directories of the packages that a job needs."""
    found = [importlib.util.find_spec(package) for package in CODE]
    return [os.path.dirname(str(spec.origin)) for spec in found if spec is not None]  # noqa: PTH120 - Ray takes text


def _write_version(root: Path) -> None:
    """Let the code on the cluster know its version, as an installation would."""
    try:
        text = str(metadata("vedette"))
    except PackageNotFoundError:
        return
    place = root / f"vedette-{__version__}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(text, encoding="utf-8")


def _copy(artifact: Artifact, target: Path) -> None:
    target.mkdir(parents=True)
    names = [MANIFEST_FILE, *(pinned.file for pinned in artifact.manifest.files if artifact.has(pinned))]
    for name in names:
        shutil.copyfile(artifact.root / name, target / name)
