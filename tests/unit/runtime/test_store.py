"""The read side of the artifact store: what is published, and pulls that are whole or did not happen."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.artifact import Artifact
from runtime.errors import ArtifactError, HomeError, ModelNotFoundError, StoreError, UsageError, VedetteError
from runtime.home import Home
from runtime.probe import probe_root
from runtime.store import ModelStore, blob_path, manifest_path, parse_reference, resolve_artifact

RESOLVE = """
import sys
from runtime.store import ModelStore, resolve_artifact
sys.stdin.readline()
print(resolve_artifact("demo@2", ModelStore.open(sys.argv[1])).digest)
"""


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("demo", ("demo", None)), ("demo@latest", ("demo", None)), ("demo@7", ("demo", 7)), ("a-b_2@12", ("a-b_2", 12))],
)
def test_references(reference: str, expected: tuple[str, int | None]) -> None:
    assert parse_reference(reference) == expected


@pytest.mark.parametrize(
    "reference",
    ["", "@1", "Demo", "demo@", "demo@0", "demo@-1", "demo@1.0", "demo@٣", "demo@" + "9" * 5000, "a b", "a@1@2"],
)
def test_what_is_no_reference_is_a_wrong_call(reference: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(reference)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_a_wrong_call(text: str) -> None:
    try:
        name, version = parse_reference(text)
    except UsageError:
        return
    assert text in {name, f"{name}@latest", f"{name}@{version}"}


def test_what_is_published_is_listed_in_order(store: ModelStore) -> None:
    assert store.names() == ["demo", "demo-b"]
    assert store.versions("demo") == [1, 2, 10]
    assert store.versions("demo-b") == [3]
    assert store.latest("demo") == 10
    assert store.versions("nothing") == []
    assert store.versions("../demo") == []


def test_only_a_manifest_is_a_publication(store: ModelStore) -> None:
    for path in ("models/half/1/notes.txt", "models/demo/tmp/manifest.json", "models/demo/11/manifest.json.part"):
        store.objects.put(path, b"x")
    store.objects.put("models/manifest.json", b"x")
    assert store.names() == ["demo", "demo-b"]
    assert store.versions("demo") == [1, 2, 10]


def test_what_is_not_there_is_said_with_what_is(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model 'demon' in .*; published are: demo, demo-b"):
        store.latest("demon")
    with pytest.raises(ModelNotFoundError, match="model 'demo' has no version 4; published are: 1, 2, 10"):
        store.manifest_bytes("demo", 4)
    with pytest.raises(ModelNotFoundError, match="no model 'demon'"):
        store.manifest("demon", 1)
    with pytest.raises(ModelNotFoundError, match=f"no file {'0' * 64}"):
        store.read_blob("0" * 64)


def test_an_empty_store_says_that_it_is(home: Path) -> None:
    assert ModelStore.open().names() == []
    with pytest.raises(ModelNotFoundError, match="published are: none yet"):
        resolve_artifact("demo")


def test_blobs_are_read_whole_or_in_parts(store: ModelStore) -> None:
    pinned = store.manifest("demo", 1).golden
    whole = (probe_root() / pinned.file).read_bytes()
    assert store.read_blob(pinned.sha256) == whole
    assert store.read_blob(pinned.sha256, 100) == whole[100:]
    assert store.read_blob(pinned.sha256, 100, 7) == whole[100:107]
    assert store.read_blob(pinned.sha256, len(whole) - 3, 7) == whole[-3:]
    assert store.read_blob(pinned.sha256, 5, 0) == b""
    with pytest.raises(StoreError):
        store.read_blob(pinned.sha256, len(whole) + 1, 1)


def test_a_pull_is_the_artifact_that_was_published(store: ModelStore, tmp_path: Path) -> None:
    pulled = store.pull("demo", 2, tmp_path / "deep" / "pulled")
    pulled.verify()
    assert pulled.manifest == store.manifest("demo", 2)
    assert names_in(tmp_path / "deep") == ["pulled"]
    assert names_in(pulled.root) == ["golden.npz", "manifest.json", "model.fp32.onnx"]
    assert pulled.root.stat().st_mode & 0o777 == 0o755


def test_a_pull_may_leave_variants_out(store: ModelStore, tmp_path: Path) -> None:
    assert names_in(store.pull("demo", 2, tmp_path / "none", variants=[]).root) == ["golden.npz", "manifest.json"]
    assert len(names_in(store.pull("demo", 2, tmp_path / "one", variants=["fp32"]).root)) == 3
    with pytest.raises(ModelNotFoundError, match="demo@2 has no variant 'int4'; it has fp32"):
        store.pull("demo", 2, tmp_path / "other", variants=["int4"])
    assert not (tmp_path / "other").exists()


def test_a_pull_overwrites_nothing(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(UsageError, match="mine exists"):
        store.pull("demo", 2, tmp_path / "mine")
    assert names_in(tmp_path / "mine") == ["file"]


def spoil(data: bytes, how: str) -> bytes:
    return {"changed": bytes([data[0] ^ 1]) + data[1:], "short": data[:-1], "long": data + bytes(5_000_000)}[how]


@pytest.mark.parametrize("how", ["changed", "short", "long"])
@pytest.mark.parametrize("file", ["model.fp32.onnx", "golden.npz"])
def test_a_spoiled_file_is_refused_and_nothing_is_left(store: ModelStore, tmp_path: Path, file: str, how: str) -> None:
    pinned = next(pinned for pinned in store.manifest("demo", 2).files if pinned.file == file)
    store.objects.put(blob_path(pinned.sha256), spoil(store.read_blob(pinned.sha256), how))
    before = names_in(tmp_path)
    with pytest.raises(ArtifactError, match=file):
        store.pull("demo", 2, tmp_path / "pulled")
    assert names_in(tmp_path) == before
    with pytest.raises(ArtifactError, match=file):
        resolve_artifact("demo@2", store)
    assert names_in(Home.from_environment().cache / "artifacts") == []


def test_a_missing_file_is_named_and_nothing_is_left(store: ModelStore, tmp_path: Path) -> None:
    store.objects.delete(blob_path(store.manifest("demo", 2).golden.sha256))
    before = names_in(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"golden\.npz: no file [0-9a-f]{64} in "):
        store.pull("demo", 2, tmp_path / "pulled")
    assert names_in(tmp_path) == before


def test_a_name_and_a_version_or_the_latest_are_resolved(store: ModelStore) -> None:
    assert resolve_artifact("demo", store).manifest.version == 10
    assert resolve_artifact("demo@latest", store).manifest.version == 10
    first = resolve_artifact("demo@1", store)
    assert first.manifest.reference == "demo@1"
    assert first.root == Home.from_environment().cache / "artifacts" / first.digest


def test_a_path_is_resolved_and_verified(probe: Path, monkeypatch: pytest.MonkeyPatch, store: ModelStore) -> None:
    assert resolve_artifact(str(probe)).root == probe
    monkeypatch.chdir(probe)
    assert resolve_artifact(".").root == probe
    monkeypatch.chdir(probe.parent)
    assert resolve_artifact("probe").root == probe
    assert resolve_artifact("./probe").root == probe
    (probe / "golden.npz").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"golden\.npz has 1 bytes"):
        resolve_artifact("./probe")
    with pytest.raises(ModelNotFoundError, match=r"no artifact in .*absent"):
        resolve_artifact("./absent")


def test_a_folder_called_like_a_model_does_not_hide_it(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_artifact("demo", store).manifest.reference == "demo@10"


def test_a_resolved_model_needs_no_second_pull(store: ModelStore) -> None:
    first = resolve_artifact("demo@1", store)
    for pinned in first.manifest.files:
        store.objects.delete(blob_path(pinned.sha256))
    assert resolve_artifact("demo@1", store) == first


@pytest.mark.parametrize("damage", ["changed", "absent", "manifest"])
def test_a_damaged_copy_in_the_cache_is_pulled_again(store: ModelStore, damage: str) -> None:
    cached = resolve_artifact("demo@1", store).root
    model = cached / "model.fp32.onnx"
    {
        "changed": lambda: model.write_bytes(spoil(model.read_bytes(), "changed")),
        "absent": model.unlink,
        "manifest": lambda: (cached / "manifest.json").write_bytes(b""),
    }[damage]()
    again = resolve_artifact("demo@1", store)
    assert again.root == cached
    again.verify()
    assert names_in(cached.parent) == [cached.name]


def test_two_threads_pull_the_same_once(store: ModelStore, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def pull(_: int) -> Artifact | VedetteError:
        barrier.wait(timeout=30)
        try:
            return store.pull("demo", 1, tmp_path / "target")
        except UsageError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pull, range(4)))
    assert sum(isinstance(one, Artifact) for one in found) == 1
    Artifact.open(tmp_path / "target").verify()
    assert not [name for name in names_in(tmp_path) if name.startswith(".tmp-")]


@pytest.mark.parametrize("store", ["directory"], indirect=True)
def test_two_processes_resolve_the_same(store: ModelStore, home: Path) -> None:
    racers: list[Any] = [
        subprocess.Popen(
            [sys.executable, "-c", RESOLVE, store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    digests = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert digests == {store.manifest("demo", 2).digest}
    assert names_in(home / "cache" / "artifacts") == sorted(digests)


def test_the_default_store_lies_in_the_home(home: Path) -> None:
    assert ModelStore.open().uri == str(home / "store")
    assert (home / "store").is_dir()
    assert ModelStore.open(home / "other").uri == str(home / "other")


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HomeError, match=r"artifact store .*file/store cannot be made: Not a directory"):
        ModelStore.open(tmp_path / "file" / "store")


@pytest.mark.parametrize("uri", ["foo://bar", "://", "s3://"])
def test_a_url_that_is_no_store_is_a_wrong_call(uri: str) -> None:
    with pytest.raises(UsageError, match="is no object store"):
        ModelStore.open(uri)


def test_a_store_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    unreachable = ModelStore.open("http://127.0.0.1:1/store")
    with pytest.raises(StoreError, match=r"artifact store http://127\.0\.0\.1:1/store cannot be read: ") as caught:
        unreachable.names()
    assert "\n" not in str(caught.value)


def test_nothing_is_pulled_before_the_model_is_known(store: ModelStore, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(ModelNotFoundError):
        store.pull("demo", 99, target)
    assert not target.parent.exists()


def test_the_pull_of_a_spoiled_manifest_is_refused(store: ModelStore, tmp_path: Path) -> None:
    store.objects.put(manifest_path("demo", 1), b'{"schema": 1}')
    with pytest.raises(VedetteError, match="manifest is not valid"):
        store.pull("demo", 1, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_caller_may_hand_the_store_in(store: ModelStore) -> None:
    assert resolve_artifact("demo-b", store).manifest.reference == "demo-b@3"
    with pytest.raises(ModelNotFoundError, match="no model 'demo-b'"):
        resolve_artifact("demo-b")
