"""The manifest: what it accepts, that it comes back as it went, and what it says when it refuses."""

from __future__ import annotations

import hashlib
import json
import string
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.errors import ArtifactError, ManifestError, ModelNotFoundError
from runtime.manifest import (
    MODEL_NAME,
    Golden,
    Manifest,
    PinnedFile,
    Postprocess,
    Preprocess,
    Provenance,
    RejectedVariant,
    Requires,
    Resize,
    Tensor,
    Variant,
    VariantRequires,
)

texts = st.text(max_size=20)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
file_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
floats = st.floats(allow_nan=False, allow_infinity=False)
nonzero = floats.filter(bool)
edges = st.integers(1, 16_384)
metrics = st.dictionaries(texts, floats, max_size=4)
instants = st.datetimes(
    min_value=datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@st.composite
def pinned(draw: st.DrawFn, name: str) -> dict[str, Any]:
    chunk_size, size = draw(st.integers(1, 1000)), draw(st.integers(0, 3000))
    count = draw(st.sampled_from([0, min(-(-size // chunk_size), 3)]))
    whole = count == -(-size // chunk_size)
    return {
        "file": name,
        "size": size,
        "sha256": draw(digests),
        "chunk_size": chunk_size,
        "chunks": tuple(draw(digests) for _ in range(count)) if whole else (),
    }


tensors = st.builds(
    Tensor, name=texts, dtype=texts, shape=st.lists(st.one_of(st.integers(0, 999), texts), max_size=4).map(tuple)
)
resizes = st.one_of(
    st.builds(Resize, size=edges, antialias=st.booleans()),
    st.builds(Resize, mode=st.just("exact"), size=st.one_of(edges, st.tuples(edges, edges))),
)
preprocesses = st.builds(
    Preprocess,
    color=st.sampled_from(["RGB", "BGR"]),
    resize=st.one_of(st.none(), resizes),
    crop=st.one_of(st.none(), st.tuples(edges, edges)),
    mean=st.tuples(floats, floats, floats),
    std=st.tuples(nonzero, nonzero, nonzero),
    scale=nonzero,
    embedded=st.booleans(),
    layout=st.sampled_from([None, "NHWC", "NCHW"]),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    ids = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    used = draw(
        st.lists(
            file_names.filter(lambda name: name != "manifest.json"),
            min_size=len(ids) + 1,
            max_size=len(ids) + 1,
            unique=True,
        )
    )
    few = st.lists(texts, max_size=2).map(tuple)
    variants = tuple(
        Variant(
            **draw(pinned(name)),
            id=variant_id,
            precision=draw(texts),
            opset=draw(st.integers(1, 30)),
            ir=draw(st.integers(1, 20)),
            inputs=(draw(tensors),),
            outputs=(draw(tensors),),
            providers=draw(few),
            tolerance=draw(st.floats(min_value=1e-9, max_value=10)),
            requires=VariantRequires(any_cpu_flags=draw(few), without_cpu_flags=draw(few)),
            unproven=draw(st.booleans()),
            metrics=draw(metrics),
        )
        for variant_id, name in zip(ids, used, strict=False)
    )
    return Manifest(
        name=draw(names),
        version=draw(st.integers(1, 2**31)),
        task=draw(st.sampled_from(["classification", "detection", "segmentation", "pose", "embedding"])),
        labels=tuple(draw(st.lists(texts, max_size=4))),
        preprocess=draw(preprocesses),
        postprocess=Postprocess(kind=draw(texts), top_k=draw(st.integers(1, 10))),
        variants=variants,
        rejected=(RejectedVariant(id="x", precision="int8", reason=draw(texts), metrics=draw(metrics)),),
        golden=Golden(**draw(pinned(used[-1]))),
        requires=Requires(memory_mb=draw(st.integers(0, 10**6))),
        provenance=Provenance(framework=draw(texts), created=draw(instants), dataset=draw(st.one_of(st.none(), texts))),
    )


def document(**changes: Any) -> dict[str, Any]:
    """A good manifest as parsed JSON, with *changes* at its top level."""
    good: dict[str, Any] = {
        "schema": 1,
        "name": "fashion",
        "version": 3,
        "task": "classification",
        "labels": ["shirt", "shoe"],
        "preprocess": {"crop": [8, 8], "embedded": True},
        "postprocess": {"kind": "classification"},
        "variants": [
            {
                "id": "fp32",
                "file": "model.fp32.onnx",
                "size": 5,
                "sha256": "a" * 64,
                "precision": "fp32",
                "opset": 20,
                "ir": 10,
                "inputs": [{"name": "images", "dtype": "uint8", "shape": ["N", 8, 8, 3]}],
                "outputs": [{"name": "scores", "dtype": "float32", "shape": ["N", 2]}],
            }
        ],
        "golden": {"file": "golden.npz", "size": 5, "sha256": "b" * 64},
        "provenance": {"framework": "torch 2.13.0", "created": "2026-11-22T00:00:00Z"},
    }
    return good | changes


def parse(changed: dict[str, Any], *, strict: bool = False) -> Manifest:
    return Manifest.parse(json.dumps(changed).encode(), strict=strict)


def refusal(data: bytes | dict[str, Any], *, strict: bool = False) -> str:
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(data if isinstance(data, bytes) else json.dumps(data).encode(), strict=strict)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


@settings(max_examples=60)
@given(manifests())
def test_a_manifest_comes_back_as_it_went(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    for strict in (False, True):
        again = Manifest.parse(data, strict=strict)
        assert again == manifest
        assert again.to_bytes() == data
    assert manifest.digest == hashlib.sha256(data).hexdigest()


def test_equal_manifests_have_equal_bytes() -> None:
    def variant(**metrics: float) -> dict[str, Any]:
        return document()["variants"][0] | {"metrics": metrics}

    utc = parse(document(variants=[variant(top1=0.5, ms=2.0)]))
    elsewhere = document(
        variants=[variant(ms=2.0, top1=0.5)],
        provenance={"framework": "torch 2.13.0", "created": "2026-11-22T05:30:00+05:30"},
    )
    assert utc == parse(elsewhere)
    assert utc.to_bytes() == parse(elsewhere).to_bytes()


def test_the_design_documents_keys_are_the_keys() -> None:
    written = json.loads(parse(document()).to_bytes())
    assert list(written)[:5] == ["schema", "name", "version", "task", "labels"]
    assert {"preprocess", "postprocess", "variants", "golden", "requires", "provenance"} <= set(written)
    assert written["variants"][0]["chunk_size"] == 262_144


def test_unknown_keys_are_ignored_on_read_and_refused_on_publish() -> None:
    newer = document(novelty=1, preprocess={"crop": [8, 8], "embedded": True, "gamma": 2.2})
    assert parse(newer) == parse(document())
    text = refusal(newer, strict=True)
    assert "novelty" in text
    assert "preprocess.gamma" in text


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../golden.npz", "a\\b", "a\0b", "a\nb", ".hidden", "-x", "x" * 129, "é.onnx"]
)
def test_a_file_outside_the_artifact_cannot_be_named(name: str) -> None:
    text = refusal(document(golden={"file": name, "size": 5, "sha256": "b" * 64}))
    assert "golden.file" in text
    assert "not a bare file name" in text


@pytest.mark.parametrize("name", ["", "Fashion", "-a", "a.b", "a/b", "a b", "é", "x" * 64, "a\n"])
def test_a_model_name_is_a_topic_level_and_a_file_name(name: str) -> None:
    assert not MODEL_NAME.fullmatch(name)
    assert "not a model name" in refusal(document(name=name))


@given(names)
def test_good_model_names_are_safe_everywhere(name: str) -> None:
    assert parse(document(name=name)).reference == f"{name}@3"
    assert set(name) <= set(string.ascii_lowercase + string.digits + "_-")


def test_an_id_or_a_file_used_twice_is_refused() -> None:
    one = document()["variants"][0]
    assert "variant id used twice: fp32" in refusal(document(variants=[one, one | {"file": "other.onnx"}]))
    assert "file used twice: model.fp32.onnx" in refusal(document(variants=[one, one | {"id": "int8"}]))
    assert "file used twice: manifest.json" in refusal(document(variants=[one | {"file": "manifest.json"}]))
    assert "file used twice: golden.npz" in refusal(document(variants=[one | {"file": "golden.npz"}]))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"schema": 2}, "schema"),
        ({"version": 0}, "version"),
        ({"task": "poetry"}, "task"),
        ({"variants": []}, "variants"),
        ({"preprocess": {"crop": [0, 8]}}, "preprocess.crop"),
        ({"preprocess": {"crop": [100_000, 8]}}, "preprocess.crop"),
        ({"preprocess": {"resize": {"size": 0}}}, "preprocess.resize.size"),
        ({"preprocess": {"resize": {"size": [8, 8]}}}, "preprocess.resize"),
        ({"preprocess": {"std": [0, 1, 1]}}, "preprocess"),
        ({"preprocess": {"scale": 0}}, "preprocess"),
        ({"preprocess": {"mean": [0.5, 0.5]}}, "preprocess"),
        ({"preprocess": {"color": "L", "mean": [0, 0, 0]}}, "preprocess"),
        ({"postprocess": {"kind": "classification", "top_k": 0}}, "postprocess.top_k"),
        ({"golden": {"file": "g", "size": -1, "sha256": "b" * 64}}, "golden.size"),
        ({"golden": {"file": "g", "size": 1, "sha256": "B" * 64}}, "golden.sha256"),
        ({"golden": {"file": "g", "size": 9, "sha256": "b" * 64, "chunks": ["c" * 64], "chunk_size": 4}}, "golden"),
        ({"provenance": {"framework": "x", "created": "2026-11-22T00:00:00"}}, "provenance.created"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, Any], place: str) -> None:
    assert f"{place}" in refusal(document(**changes)).partition("manifest is not valid: ")[2].partition(": ")[0]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": ' + b"[" * 5000, b'"x"'])
def test_what_is_no_manifest_is_refused_in_one_line(data: bytes) -> None:
    assert refusal(data).startswith("manifest is not valid: ")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_in_one_line(data: bytes) -> None:
    assert "\n" not in refusal(data)


def test_a_hostile_key_stays_on_the_line() -> None:
    assert "evil key" in refusal(document(**{"evil\nkey": 1}), strict=True)


def test_many_causes_are_counted_not_listed() -> None:
    text = refusal({"schema": 1})
    assert text.count("Field required") == 3
    assert text.endswith("; and 5 more")


def test_nothing_of_it_can_be_changed() -> None:
    manifest = parse(document())
    with pytest.raises(ValidationError, match="frozen"):
        manifest.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        manifest.variants[0].sha256 = "c" * 64


def test_a_variant_is_found_by_its_id_or_what_there_is_is_named() -> None:
    manifest = parse(document())
    assert manifest.variant("fp32") is manifest.variants[0]
    with pytest.raises(ModelNotFoundError, match="fashion@3 has no variant 'int8'; it has fp32"):
        manifest.variant("int8")


@given(st.binary(max_size=100), st.integers(1, 40))
def test_what_was_measured_is_verified(tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk_size: int) -> None:
    root = tmp_path_factory.mktemp("artifact")
    (root / "file.bin").write_bytes(data)
    measured = PinnedFile(**PinnedFile.measure(root / "file.bin", chunk_size))
    measured.verify(root)
    assert measured.size == len(data)
    chunks = [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)]
    assert list(measured.chunks) == [hashlib.sha256(chunk).hexdigest() for chunk in chunks]
    (root / "file.bin").write_bytes(data + b"x")
    with pytest.raises(ArtifactError, match=f"has {len(data) + 1} bytes; the manifest pins {len(data)}"):
        measured.verify(root)


def test_changed_bytes_and_absent_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    measured = PinnedFile(**PinnedFile.measure(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"12346")
    with pytest.raises(ArtifactError, match=r"file has SHA-256 [0-9a-f]{64}; the manifest pins"):
        measured.verify(tmp_path)
    (tmp_path / "file").unlink()
    with pytest.raises(ArtifactError, match="file is absent; the manifest pins 5 bytes"):
        measured.verify(tmp_path)


def test_created_is_kept_in_utc() -> None:
    assert parse(document()).provenance.created == datetime(2026, 11, 22, tzinfo=UTC)
