from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.pool.shipping import Package, contents, pack, unpack
from runtime.artifact import Artifact
from runtime.errors import ArtifactError

Fetch = Callable[[], Mapping[str, bytes]]


@pytest.fixture
def package(artifact: Artifact) -> Package:
    """The artifact, as it arrives on a machine that has no such directory."""
    shipped: Package = pickle.loads(pickle.dumps(pack(artifact)))
    return replace(shipped, root=Path("/not/on/this/machine"))


@pytest.fixture
def fetch(artifact: Artifact) -> Fetch:
    """Brings the artifact's files."""
    return lambda: contents(pack(artifact))


def unasked() -> Mapping[str, bytes]:
    raise AssertionError("nothing was to be fetched")


def test_where_the_directory_is_shared_nothing_is_copied(artifact, tmp_path):
    assert unpack(pack(artifact), unasked, tmp_path / "cache").root == artifact.root
    assert not (tmp_path / "cache").exists()


def test_elsewhere_the_files_arrive_whole_and_once(package, fetch, artifact, tmp_path):
    arrived = unpack(package, fetch, tmp_path / "cache")
    arrived.verify()
    assert (arrived.root, arrived.digest) == (tmp_path / "cache" / artifact.digest, artifact.digest)
    assert unpack(package, unasked, tmp_path / "cache").root == arrived.root


def test_a_damaged_copy_is_replaced(package, fetch, tmp_path):
    root = unpack(package, fetch, tmp_path / "cache").root
    (root / "model.fp32.onnx").write_bytes(b"garbage")
    unpack(package, fetch, tmp_path / "cache").verify()


def test_damaged_files_are_refused_and_nothing_of_them_stays(package, fetch, tmp_path):
    files = {**fetch(), "model.fp32.onnx": b"garbage"}
    with pytest.raises(ArtifactError, match=r"model\.fp32\.onnx"):
        unpack(package, lambda: files, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_workers_of_one_node_that_start_together_share_one_copy(package, fetch, tmp_path):
    with ThreadPoolExecutor(6) as executor:
        unpacked = executor.map(lambda _: unpack(package, fetch, tmp_path / "cache"), range(6))
        roots = {artifact.root for artifact in unpacked}
    assert len(roots) == 1
    assert list((tmp_path / "cache").iterdir()) == list(roots)
    Artifact.open(roots.pop()).verify()
