"""An artifact on the disk: opened without reading much, used only after its bytes matched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.artifact import Artifact
from runtime.errors import ArtifactError, ManifestError, ModelNotFoundError


def test_the_digest_is_that_of_the_manifests_bytes(probe: Path) -> None:
    artifact = Artifact.open(probe)
    assert artifact.digest == artifact.manifest.digest
    assert Artifact.open(probe, digest=artifact.digest) == artifact
    with pytest.raises(ArtifactError, match=rf"manifest.json has SHA-256 {artifact.digest}; expected 0000"):
        Artifact.open(probe, digest="0" * 64)


def test_where_there_is_none_it_says_so(tmp_path: Path, probe: Path) -> None:
    for place in (tmp_path, tmp_path / "absent", probe / "golden.npz"):
        with pytest.raises(ModelNotFoundError, match=r"no artifact in .*: there is no manifest\.json"):
            Artifact.open(place)
    (probe / "manifest.json").write_text("{}")
    with pytest.raises(ManifestError, match="manifest is not valid"):
        Artifact.open(probe)


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden.npz"])
def test_a_changed_file_is_never_handed_out(probe: Path, name: str) -> None:
    artifact = Artifact.open(probe)
    data = bytearray((probe / name).read_bytes())
    data[len(data) // 2] ^= 1
    (probe / name).write_bytes(data)
    pinned = next(pinned for pinned in artifact.manifest.files if pinned.file == name)
    with pytest.raises(ArtifactError, match=f"{name} has SHA-256"):
        artifact.verified_path(pinned)
    with pytest.raises(ArtifactError, match=f"{name} has SHA-256"):
        artifact.verify()


def test_some_of_the_variants_are_enough(probe: Path, change_manifest: Callable[..., Artifact]) -> None:
    variant = Artifact.open(probe).manifest.variants[0].model_dump(mode="json")
    artifact = change_manifest(probe, variants=[variant, variant | {"id": "int8", "file": "model.int8.onnx"}])
    artifact.verify()
    assert [artifact.has(one) for one in artifact.manifest.variants] == [True, False]
    with pytest.raises(ArtifactError, match=r"model\.int8\.onnx is absent; the manifest pins"):
        artifact.verified_path(artifact.manifest.variant("int8"))


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden.npz"])
def test_no_variant_or_no_golden_file_is_not_enough(probe: Path, name: str) -> None:
    (probe / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is absent"):
        Artifact.open(probe).verify()
