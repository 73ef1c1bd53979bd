"""`vedette predict` with real artifacts: what it prints, what it draws, what it does with bad pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_models import write_task_artifact

from runtime.artifact import Artifact
from runtime.cli import run_command, vedette
from runtime.images import read
from runtime.predictor import Predictor
from runtime.store import ModelStore, blob_path, manifest_path
from runtime.tasks.records import as_json, record_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `vedette predict`; return its exit code, and what it printed to stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_command(vedette, "vedette", ["predict", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


def picture(path: Path, seed: int = 0, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_there_is_one_object_an_image(run: Run, probe: Path, tmp_path: Path) -> None:
    images = [picture(tmp_path / f"{number}.png", number) for number in range(3)]
    code, out, err = run("--model", probe, *images, "--provider", "cpu", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [one["image"] for one in found] == list(map(str, images))
    for one, image in zip(found, images, strict=True):
        facts = ["image", "model", "variant", "provider", "decoder"]
        assert list(one) == [*facts, "label_id", "label", "score", "top_k"]
        assert [one[fact] for fact in facts[1:]] == [
            "probe@1",
            "fp32",
            "CPUExecutionProvider",
            read(image).decoder,
        ]
        assert one["label"] == "abcd"[one["label_id"]]
        assert sum(entry["score"] for entry in one["top_k"]) == pytest.approx(1, abs=1e-4)
        assert {key: one[key] for key in ("label_id", "label", "score")} == one["top_k"][0]


def test_people_get_a_table(run: Run, probe: Path, tmp_path: Path) -> None:
    code, out, _ = run("--model", probe, picture(tmp_path / "x.png"))
    assert code == 0
    head, rule, row = out.splitlines()
    assert head.split() == ["image", "label", "score", "others"]
    assert row.split()[0] == str(tmp_path / "x.png")
    assert set(rule) == {"-", " "}


@pytest.mark.parametrize(
    ("kind", "headers", "fields"),
    [
        ("semantic", ["label", "pixels", "share"], ["mask", "classes"]),
        ("saliency", ["foreground"], ["mask", "coverage"]),
        ("movenet", ["pose", "score", "x1", "y1", "x2", "y2", "keypoints"], ["poses"]),
        ("embedding", ["dimensions", "embedding"], ["embedding"]),
    ],
)
def test_every_kind_of_answer_is_shown_both_ways(
    run: Run, tmp_path: Path, kind: str, headers: list[str], fields: list[str]
) -> None:
    artifact = write_task_artifact(kind, tmp_path / "model")
    image = picture(tmp_path / "x.png")
    code, out, err = run("--model", artifact.root, image, "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)
    assert list(found)[5:] == fields
    (prediction,) = Predictor(artifact).predict([image])
    expected = json.loads(json.dumps(as_json(record_of(prediction))))
    assert {name: found[name] for name in fields} == expected
    code, out, _ = run("--model", artifact.root, image)
    assert code == 0
    assert out.splitlines()[0].split() == ["image", *headers]
    assert all(line.startswith(str(image)) for line in out.splitlines()[2:])


def test_a_mask_is_a_png_in_base64(run: Run, tmp_path: Path) -> None:
    artifact = write_task_artifact("semantic", tmp_path / "model")
    image = picture(tmp_path / "x.png", side=20)
    _, out, _ = run("--model", artifact.root, image, "--json")
    (found,) = json.loads(out)
    with Image.open(io.BytesIO(base64.b64decode(found["mask"]))) as mask:
        assert (mask.mode, mask.size) == ("P", (20, 20))
        counts = np.bincount(np.asarray(mask).ravel())
    assert {one["label_id"]: one["pixels"] for one in found["classes"]} == {
        index: count for index, count in enumerate(counts) if count
    }


def test_a_call_may_have_thresholds_of_its_own(run: Run, tmp_path: Path, probe: Path) -> None:
    image = picture(tmp_path / "x.png")
    found = json.loads(run("--model", probe, image, "--top-k", 2, "--json")[1])
    assert len(found[0]["top_k"]) == 2
    artifact = write_task_artifact("movenet", tmp_path / "model")
    boxes = [
        json.loads(run("--model", artifact.root, image, "--score-threshold", threshold, "--json")[1])[0]["poses"][0]
        for threshold in (0, 0.5)
    ]
    assert boxes[0]["keypoints"] == boxes[1]["keypoints"]
    assert boxes[0]["x1"] < boxes[1]["x1"]
    assert run("--model", probe, image, "--score-threshold", 1.5)[0] == 2


def test_a_published_model_comes_from_a_store(run: Run, probe: Path, tmp_path: Path) -> None:
    store = ModelStore.open(tmp_path / "store")
    artifact = Artifact.open(probe)
    for pinned in artifact.manifest.files:
        store.objects.put(blob_path(pinned.sha256), (probe / pinned.file).read_bytes())
    store.objects.put(manifest_path("probe", 1), artifact.manifest.to_bytes())
    image = picture(tmp_path / "x.png")
    for reference in ("probe", "probe@1", "probe@latest"):
        code, out, err = run("--model", reference, "--store", tmp_path / "store", image, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)[0]["model"] == "probe@1"
    code, _, err = run("--model", "probe@2", "--store", tmp_path / "store", image)
    assert code == 1
    assert "model 'probe' has no version 2; published are: 1" in err
    code, _, err = run("--model", "probe", image)
    assert code == 1
    assert "no model 'probe' in" in err


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"nonsense", "not_an_image"), (b"\x89PNG\r\n\x1a\n", "truncated")]
)
def test_a_bad_picture_has_its_error_in_its_place(
    run: Run, probe: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    good = [picture(tmp_path / f"{number}.png", number) for number in range(2)]
    code, out, err = run("--model", probe, good[0], bad, good[1], "--json")
    assert code == 1
    assert err.startswith(f"vedette: error: {reason}: {bad}: ")
    assert err.count("\n") == 1
    first, second, third = json.loads(out)
    assert (first["image"], third["image"]) == tuple(map(str, good))
    assert first["label"]
    assert third["label"]
    assert list(second) == ["image", "model", "variant", "provider", "error"]
    assert second["error"]["reason"] == reason
    assert second["error"]["detail"].startswith(f"{bad}: ")


def test_the_table_names_bad_pictures_apart(run: Run, probe: Path, tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    code, out, err = run("--model", probe, tmp_path / "nowhere.png", good, tmp_path / "neither.png")
    assert code == 1
    assert "error: 2 of 3 images could not be used; the first: missing: " in err
    answered, bad = out.split("\n\n")
    assert [line.split()[0] for line in answered.splitlines()[2:]] == [str(good)]
    assert [line.split()[:2] for line in bad.splitlines()[2:]] == [
        [str(tmp_path / "nowhere.png"), "missing"],
        [str(tmp_path / "neither.png"), "missing"],
    ]


def test_a_truncated_jpeg_is_taken_only_if_asked_for(run: Run, probe: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * 2 // 3])
    code, out, _ = run("--model", probe, cut, "--json")
    assert code == 1
    assert json.loads(out)[0]["error"]["reason"] == "truncated"
    code, out, err = run("--model", probe, cut, "--allow-truncated", "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)
    assert found["truncated"] is True
    assert found["label"] in "abcd"


def test_a_directory_and_a_pattern_stand_for_their_pictures(run: Run, probe: Path, tmp_path: Path) -> None:
    names = ["b/2.png", "a/1.jpg", "c.bmp"]
    for name in names:
        picture(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    found = json.loads(run("--model", probe, tmp_path / "pictures", "--json")[1])
    assert [one["image"] for one in found] == [str(tmp_path / "pictures" / name) for name in sorted(names)]
    found = json.loads(run("--model", probe, tmp_path / "pictures" / "*" / "*.png", "--json")[1])
    assert [one["image"] for one in found] == [str(tmp_path / "pictures/b/2.png")]
    (tmp_path / "nothing").mkdir()
    for word, text in ((tmp_path / "nothing", "holds no pictures (.bmp, "), (tmp_path / "*.tif", "matches no file")):
        code, out, err = run("--model", probe, word)
        assert (code, out) == (2, "")
        assert text in err


def test_drawn_pictures_do_not_overwrite_each_other_or_what_was_read(run: Run, probe: Path, tmp_path: Path) -> None:
    out_directory = tmp_path / "drawn"
    images = [picture(tmp_path / name) for name in ("a/x.png", "b/x.png", "a/x.jpg", "drawn/y.png")]
    before = images[3].read_bytes()
    found = json.loads(run("--model", probe, *images, "--save", out_directory, "--json")[1])
    names = [[Path(file).name for file in one["saved"]] for one in found]
    assert names == [["x.png"], ["x-2.png"], ["x.jpg"], ["y-2.png"]]
    assert images[3].read_bytes() == before
    for one in found:
        for file in one["saved"]:
            with Image.open(file) as drawn:
                assert drawn.format == ("JPEG" if file.endswith(".jpg") else "PNG")
                assert drawn.size == (320, 320)  # 16 pixels are too few for text
    contents = {path.name: path.read_bytes() for path in out_directory.iterdir()}
    assert sorted(contents) == ["x-2.png", "x.jpg", "x.png", "y-2.png", "y.png"]
    again = json.loads(run("--model", probe, *images, "--save", out_directory, "--json")[1])
    assert again == found
    assert {path.name: path.read_bytes() for path in out_directory.iterdir()} == contents


def test_a_class_mask_is_saved_beside_its_picture(run: Run, tmp_path: Path) -> None:
    artifact = write_task_artifact("semantic", tmp_path / "model")
    image = picture(tmp_path / "x.png", side=20)
    code, out, _ = run("--model", artifact.root, image, "--save", tmp_path / "drawn", "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert [Path(file).name for file in found["saved"]] == ["x.png", "x.mask.png"]
    assert Path(found["saved"][1]).read_bytes() == base64.b64decode(found["mask"])


def test_what_cannot_be_drawn_is_refused_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    artifact = write_task_artifact("embedding", tmp_path / "model")
    code, out, err = run("--model", artifact.root, picture(tmp_path / "x.png"), "--save", tmp_path / "drawn")
    assert (code, out) == (2, "")
    assert "--save: tiny@1 does embedding, of which nothing can be drawn" in err
    assert not (tmp_path / "drawn").exists()


def test_a_fall_back_is_said(run: Run, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.predictor.fallback", lambda *_: "CUDAExecutionProvider was refused: no device")
    image = picture(tmp_path / "x.png")
    (found,) = json.loads(run("--model", probe, image, "--json")[1])
    assert found["fallback"] == "CUDAExecutionProvider was refused: no device"
    code, out, _ = run("--model", probe, image)
    assert code == 0
    assert out.endswith("\nran on CPUExecutionProvider: CUDAExecutionProvider was refused: no device\n")
    assert "fallback" not in json.loads(run("--model", probe, image, "--provider", "cpu", "--json")[1])[0]


def test_a_provider_that_is_not_here_is_told_why(run: Run, probe: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png")
    code, _, err = run("--model", probe, "--provider", "cuda", image)
    assert code == 1
    assert "fp32 on CUDAExecutionProvider: CUDAExecutionProvider is not " in err
    assert run("--model", probe, "--provider", "abacus", image)[0] == 2


def test_a_spoiled_artifact_is_one_line(run: Run, probe: Path, tmp_path: Path) -> None:
    (probe / "model.fp32.onnx").write_bytes(b"broken")
    code, _, err = run("--model", probe, picture(tmp_path / "x.png"))
    assert (code, err.count("\n")) == (1, 1)
    assert "model.fp32.onnx has 6 bytes; the manifest pins" in err
