from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.pool.shipping import Package, pack, unpack
from runtime.artifact import Artifact
from runtime.errors import ArtifactError


@pytest.fixture
def package(artifact: Artifact) -> Package:
    """The artifact, as it arrives on a machine that has no such directory."""
    shipped: Package = pickle.loads(pickle.dumps(pack(artifact)))
    return replace(shipped, root=Path("/not/on/this/machine"))


def test_where_the_directory_is_shared_nothing_is_copied(artifact, tmp_path):
    assert unpack(pack(artifact), tmp_path / "cache").root == artifact.root
    assert not (tmp_path / "cache").exists()


def test_elsewhere_the_files_arrive_whole(package, artifact, tmp_path):
    arrived = unpack(package, tmp_path / "cache")
    arrived.verify()
    assert (arrived.root, arrived.digest) == (tmp_path / "cache" / artifact.digest, artifact.digest)
    assert unpack(package, tmp_path / "cache").root == arrived.root


def test_a_damaged_copy_is_replaced(package, tmp_path):
    root = unpack(package, tmp_path / "cache").root
    (root / "model.fp32.onnx").write_bytes(b"garbage")
    unpack(package, tmp_path / "cache").verify()


def test_a_damaged_package_is_refused_and_nothing_of_it_stays(package, tmp_path):
    files = {**package.files, "model.fp32.onnx": b"garbage"}
    with pytest.raises(ArtifactError, match=r"model\.fp32\.onnx"):
        unpack(replace(package, files=files), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_workers_of_one_node_that_start_together_share_one_copy(package, tmp_path):
    with ThreadPoolExecutor(6) as executor:
        roots = {artifact.root for artifact in executor.map(lambda _: unpack(package, tmp_path / "cache"), range(6))}
    assert len(roots) == 1
    assert list((tmp_path / "cache").iterdir()) == list(roots)
    Artifact.open(roots.pop()).verify()
