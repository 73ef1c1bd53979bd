from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.errors import RegistryError
from controller.registry import publish
from runtime.errors import ArtifactError, ManifestError
from runtime.manifest import Manifest
from runtime.objects import put_if_absent
from runtime.store import ModelStore, blob_path, manifest_path

DraftMaker = Callable[..., tuple[Path, Manifest]]


def test_versions_rise_by_one_and_earlier_ones_stay(store: ModelStore, make_draft: DraftMaker) -> None:
    first = publish.publish(store, *make_draft())
    before = store.manifest_bytes("tiny", 1)
    second = publish.publish(store, *make_draft(power=2.0))
    other = publish.publish(store, *make_draft("other"))
    assert (first.reference, second.reference, other.reference) == ("tiny@1", "tiny@2", "other@1")
    assert store.manifest_bytes("tiny", 1) == before == first.to_bytes()
    assert store.manifest("tiny", 2) == second


def test_what_was_published_can_be_pulled_and_verified(
    store: ModelStore, make_draft: DraftMaker, tmp_path: Path
) -> None:
    manifest = publish.publish(store, *make_draft())
    artifact = store.pull("tiny", 1, tmp_path / "pulled")
    artifact.verify()
    assert artifact.digest == manifest.digest


def test_who_loses_the_race_takes_the_next_version(store: ModelStore, make_draft: DraftMaker) -> None:
    drafts = [make_draft(power=float(power)) for power in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda draft: publish.publish(store, *draft), drafts))
    assert sorted(m.version for m in manifests) == list(range(1, 9))
    for manifest in manifests:
        assert store.manifest_bytes("tiny", manifest.version) == manifest.to_bytes()


def test_put_if_absent_never_replaces(store: ModelStore) -> None:
    assert put_if_absent(store.objects, "a/b", b"first")
    assert not put_if_absent(store.objects, "a/b", b"second")
    assert bytes(store.objects.get("a/b").bytes()) == b"first"


def test_file_that_is_not_the_pinned_one_publishes_nothing(store: ModelStore, make_draft: DraftMaker) -> None:
    directory, draft = make_draft()
    (directory / "model.fp32.onnx").write_bytes(b"other bytes")
    with pytest.raises(ArtifactError, match="the manifest pins"):
        publish.publish(store, directory, draft)
    assert store.versions("tiny") == []
    assert not [meta for batch in store.objects.list() for meta in batch]


def test_manifest_that_is_not_valid_publishes_nothing(store: ModelStore, make_draft: DraftMaker) -> None:
    directory, draft = make_draft()
    with pytest.raises(ManifestError, match="not a model name"):
        publish.publish(store, directory, draft.model_copy(update={"name": "../up"}))
    assert not [meta for batch in store.objects.list() for meta in batch]


def test_crash_before_the_manifest_publishes_nothing(
    store: ModelStore, make_draft: DraftMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_at_the_manifest(target: object, key: str, content: bytes | Path) -> bool:
        if key.startswith("models/"):
            raise KeyboardInterrupt
        return put_if_absent(target, key, content)

    directory, draft = make_draft()
    with monkeypatch.context() as patched:
        patched.setattr(publish, "put_if_absent", crash_at_the_manifest)
        with pytest.raises(KeyboardInterrupt):
            publish.publish(store, directory, draft)
    assert store.versions("tiny") == []
    assert publish.publish(store, directory, draft).version == 1


def test_damaged_blob_is_found_before_the_manifest_refers_to_it(store: ModelStore, make_draft: DraftMaker) -> None:
    directory, draft = make_draft()
    store.objects.put(blob_path(draft.golden.sha256), b"torn")
    with pytest.raises(RegistryError, match="is damaged"):
        publish.publish(store, directory, draft)
    assert store.versions("tiny") == []


def test_full_disk_is_an_os_error_and_leaves_nothing(
    make_draft: DraftMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ModelStore.open(tmp_path / "full")
    directory, draft = make_draft()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            publish.publish(store, directory, draft)
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]


def test_content_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def recorded_fsync(descriptor: int) -> None:
        opened = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(f"directory {opened.name}" if opened.is_dir() else "file")
        fsync(descriptor)

    def recorded_link(source: Path, target: Path) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "link", recorded_link)
    store = ModelStore.open(tmp_path / "store")
    assert put_if_absent(store.objects, manifest_path("tiny", 1), b"{}")
    assert steps == [
        "directory store",
        "directory models",
        "directory tiny",
        "file",
        "link",
        "directory 1",
    ]
    assert not list((tmp_path / "store").rglob(".tmp-*"))
