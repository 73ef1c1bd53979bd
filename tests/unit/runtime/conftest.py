"""The probe artifact of the package, as a real artifact to copy, publish and spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import LocalStore, MemoryStore

from runtime.artifact import Artifact
from runtime.manifest import MANIFEST_FILE, Golden, Manifest, PinnedFile
from runtime.probe import probe_root
from runtime.store import ModelStore, blob_path, manifest_path


def rewrite(root: Path, **changes: Any) -> Artifact:
    """Change the manifest's document in *root* at its top level."""
    document = json.loads((root / MANIFEST_FILE).read_bytes()) | changes
    (root / MANIFEST_FILE).write_bytes(Manifest.parse(json.dumps(document).encode()).to_bytes())
    return Artifact.open(root)


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A copy of the probe artifact that a test may spoil: uint8 [N, 16, 16, 3] -> 4 scores."""
    return shutil.copytree(probe_root(), tmp_path / "probe", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def change_manifest() -> Callable[..., Artifact]:
    """Write changes into the manifest of an artifact directory."""
    return rewrite


@pytest.fixture
def change_golden() -> Callable[..., Artifact]:
    """Pass the arrays of the golden file through a function, and pin what comes out."""

    def change(root: Path, transform: Callable[[str, np.ndarray], np.ndarray | None]) -> Artifact:
        path = root / "golden.npz"
        with np.load(path) as golden:
            changed = {name: transform(name, golden[name]) for name in golden}
        np.savez(path, **{name: value for name, value in changed.items() if value is not None})
        return rewrite(root, golden=Golden(**PinnedFile.measure(path)).model_dump(mode="json"))

    return change


def publish(store: ModelStore, root: Path, name: str, version: int) -> Artifact:
    """Put the artifact in *root* into *store* under another name and version: blobs first, the manifest last."""
    artifact = Artifact.open(root)
    for pinned in artifact.manifest.files:
        store.objects.put(blob_path(pinned.sha256), (root / pinned.file).read_bytes())
    manifest = artifact.manifest.model_copy(update={"name": name, "version": version})
    store.objects.put(manifest_path(name, version), manifest.to_bytes())
    return artifact


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelStore]:
    """A store with demo@1, demo@2, demo@10 and other@1."""
    if request.param == "memory":
        opened = ModelStore("memory://", MemoryStore())
    else:
        opened = ModelStore(str(tmp_path / "store"), LocalStore(tmp_path / "store", mkdir=True))
    for name, version in (("demo", 1), ("demo", 2), ("demo", 10), ("demo-b", 3)):
        publish(opened, probe_root(), name, version)
    return opened
