"""One predictor: proves, chooses the fastest, runs any batch, and agrees with torchvision on real photographs."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from artifact_of import artifact_of
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runtime import Predictor as LazyPredictor
from runtime import predictor as predictor_module
from runtime.artifact import Artifact
from runtime.errors import ArtifactError, ImageError, ModelError, ModelNotFoundError, ProviderError, UsageError
from runtime.hardware import Part, this_machine
from runtime.images import load
from runtime.manifest import Postprocess, Preprocess, Resize
from runtime.predictor import Predictor, choose
from runtime.proof import Proof, prove_isolated
from runtime.providers import find
from runtime.session import SessionOptions

CPU = "CPUExecutionProvider"
Change = Callable[..., Artifact]


def build_artifact(
    root: Path, models: dict[str, Path], preprocess: Preprocess, golden_input: np.ndarray, labels: tuple[str, ...] = ()
) -> Artifact:
    """Make an artifact of ONNX files in *root* as publishing does: measured files, golden outputs from the CPU."""
    return artifact_of(
        models,
        root,
        preprocess,
        Postprocess(kind="classification"),
        golden_input=golden_input,
        opset=20,
        ir=10,
        tolerance=0.01,
        task="classification",
        labels=labels,
    )


def means_model(path: Path, batch: int | str, height: int | str = 8, width: int | str = 8) -> Path:
    """uint8 NHWC -> the mean of each channel, as three scores."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["scores"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, height, width, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def colored(*color: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (*size, 3))


@pytest.fixture
def means(tmp_path: Path) -> Callable[..., Artifact]:
    def make(batch: int | str = "N", preprocess: Preprocess | None = None, **size: Any) -> Artifact:
        root = tmp_path / f"means-{batch}"
        root.mkdir()
        model = means_model(root / "means.onnx", batch, **size)
        examples = np.zeros((batch if isinstance(batch, int) else 2, 8, 8, 3), np.uint8)
        return build_artifact(
            root, {"fp32": model}, preprocess or Preprocess(embedded=True), examples, ("red", "green", "blue")
        )

    return make


def labels(predictor: Predictor, sources: list[Any]) -> list[str]:
    return [prediction.label for prediction in predictor.predict(sources)]


def test_bytes_files_and_pixels_are_one_batch(means: Callable[..., Artifact], tmp_path: Path) -> None:
    predictor = Predictor(means(), options=SessionOptions(intra_op_threads=1))
    assert (predictor.provider, predictor.variant.id, predictor.proof.passed) == (CPU, "fp32", True)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colored(0, 0, 255))).save(buffer, "PNG")
    (tmp_path / "blue.png").write_bytes(buffer.getvalue())
    found = labels(predictor, [colored(255, 0, 0), buffer.getvalue(), colored(0, 255, 0), tmp_path / "blue.png"])
    assert found == ["red", "blue", "green", "blue"]
    assert predictor.predict([]) == []


def test_the_steps_together_are_predict(probe: Path) -> None:
    predictor = Predictor(Artifact.open(probe))
    pictures = [np.random.default_rng(n).integers(0, 255, (30 + n, 40, 3), dtype=np.uint8) for n in range(3)]
    batch = np.stack([predictor.prepare(picture) for picture in pictures])
    assert (batch.shape, batch.dtype) == ((3, 16, 16, 3), np.uint8)
    outputs = predictor.infer(batch)
    assert predictor.decode(outputs, [p.shape[:2] for p in pictures]) == predictor.predict(pictures)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8])
def test_a_graph_of_a_fixed_batch_is_called_again_and_the_rest_padded(
    means: Callable[..., Artifact], number: int
) -> None:
    predictor = Predictor(means(batch=4))
    calls: list[int] = []
    run = predictor._session.run
    predictor._session.run = lambda batch: (calls.append(len(batch)), run(batch))[1]
    colors = [np.eye(3, dtype=int)[index % 3] * 255 for index in range(number)]
    assert labels(predictor, [colored(*color) for color in colors]) == [
        ("red", "green", "blue")[index % 3] for index in range(number)
    ]
    assert calls == [4] * -(-number // 4)


def test_pictures_of_different_sizes_make_no_batch_where_none_is_named(means: Callable[..., Artifact]) -> None:
    predictor = Predictor(means(height="H", width="W"))
    assert labels(predictor, [colored(0, 9, 0, size=(5, 7))]) == ["green"]
    with pytest.raises(ModelError, match=r"model@1: inputs of shapes \[\(5, 7, 3\), \(8, 8, 3\)\] make no batch"):
        predictor.predict([colored(0, 9, 0, size=(5, 7)), colored(0, 9, 0)])


def test_a_picture_of_another_size_than_the_graphs_says_what_to_do(means: Callable[..., Artifact]) -> None:
    with pytest.raises(ModelError, match="the manifest's resize and crop must lead to the model's size"):
        Predictor(means()).predict([colored(0, 0, 0, size=(9, 8))])


def test_a_bad_picture_is_an_image_error(probe: Path) -> None:
    with pytest.raises(ImageError, match="not_an_image"):
        Predictor(Artifact.open(probe)).predict([b"nonsense"])


def test_a_provider_asked_for_by_name_is_strict(probe: Path) -> None:
    artifact = Artifact.open(probe)
    with pytest.raises(
        ProviderError,
        match=r"probe@1 runs on no execution provider here: fp32 on CUDAExecutionProvider: "
        r"CUDAExecutionProvider is not installed: onnxruntime",
    ):
        Predictor(artifact, provider="cuda")
    with pytest.raises(UsageError, match="'gpu' is not known"):
        Predictor(artifact, provider="gpu")
    assert Predictor(artifact, provider="cpu").provider == CPU


def test_a_variant_asked_for_by_name_is_strict(probe: Path) -> None:
    assert Predictor(Artifact.open(probe), variant="fp32").variant.id == "fp32"
    with pytest.raises(ModelNotFoundError, match="has no variant 'int8'"):
        Predictor(Artifact.open(probe), variant="int8")


def test_auto_takes_the_fastest_variant_that_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"slow": means_model(tmp_path / "slow.onnx", "N"), "fast": means_model(tmp_path / "fast.onnx", "N")}
    artifact = build_artifact(tmp_path, models, Preprocess(embedded=True), np.zeros((1, 8, 8, 3), np.uint8))
    assert [(proof.variant, proof.passed) for proof in choose(artifact).proofs] == [("slow", True), ("fast", True)]

    def timed(root: Path, variant: str, provider: str, **more: Any) -> Proof:
        return prove_isolated(root, variant, provider, **more).model_copy(
            update={"latency_ms": {"slow": 9.0, "fast": 3.0}[variant]}
        )

    monkeypatch.setattr(predictor_module, "prove_isolated", timed)
    predictor = Predictor(artifact)
    assert predictor.variant.id == "fast"
    assert [proof.latency_ms for proof in predictor.selection.proofs] == [9.0, 3.0]


def test_only_variants_that_are_here_and_meant_for_the_provider_are_tried(probe: Path, change_manifest: Change) -> None:
    variant = Artifact.open(probe).manifest.variants[0].model_dump(mode="json")
    absent = variant | {"id": "absent", "file": "absent.onnx"}
    selection = choose(change_manifest(probe, variants=[variant, absent]))
    assert [proof.variant for proof in selection.proofs] == ["fp32"]
    assert [str(one) for one in selection.skipped] == [f"absent on {CPU}: its file is not here"]
    artifact = change_manifest(probe, variants=[variant | {"providers": ["CUDAExecutionProvider"]}])
    with pytest.raises(ProviderError, match=f"fp32 on {CPU}: it is meant for CUDAExecutionProvider"):
        choose(artifact)
    artifact = change_manifest(probe, variants=[variant | {"providers": [CPU]}])
    assert choose(artifact).chosen.provider == CPU


def test_a_variant_for_another_processor_is_left_out_and_said(probe: Path, change_manifest: Change) -> None:
    shutil.copy(probe / "model.fp32.onnx", probe / "other.onnx")
    variant = Artifact.open(probe).manifest.variants[0].model_dump(mode="json")
    demanding = variant | {"id": "int8", "file": "other.onnx", "requires": {"cpu_flags": ["unheard_of"]}}
    predictor = Predictor(change_manifest(probe, variants=[demanding, variant]))
    assert predictor.variant.id == "fp32"
    (skipped,) = predictor.selection.skipped
    assert (skipped.variant, skipped.provider) == ("int8", CPU)
    assert "it needs unheard_of, which this processor" in skipped.reason
    with pytest.raises(ProviderError, match="it needs unheard_of"):
        Predictor(predictor.artifact, variant="int8")


def test_auto_says_which_accelerator_is_not_used_and_a_name_has_nothing_to_say(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = frozenset({Part.CPU, Part.GPU, Part.NVIDIA_GPU})
    monkeypatch.setattr(predictor_module, "this_machine", lambda: dataclasses.replace(this_machine(), parts=parts))
    artifact = Artifact.open(probe)
    predictor = Predictor(artifact)
    assert predictor.provider == CPU
    assert predictor.fallback == (
        "TensorrtExecutionProvider was preferred on this machine: not installed: " + find("tensorrt").install
    )
    assert Predictor(artifact, provider="cpu").fallback is None


def test_a_machine_without_an_accelerator_has_nothing_to_fall_back_from(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dataclasses.replace(this_machine(), parts=frozenset({Part.CPU}), system="Linux")
    monkeypatch.setattr(predictor_module, "this_machine", lambda: plain)
    assert Predictor(Artifact.open(probe)).fallback is None


def test_a_free_batch_that_was_pinned_is_padded_like_a_fixed_one(means: Callable[..., Artifact]) -> None:
    predictor = Predictor(means(), options=SessionOptions(fixed_batch=4))
    assert predictor.fixed_batch == 4
    assert labels(predictor, [colored(*color) for color in np.eye(3, dtype=int).repeat(2, axis=0) * 255]) == [
        name for name in ("red", "green", "blue") for _ in range(2)
    ]


def test_a_predictor_can_be_profiled(probe: Path, tmp_path: Path) -> None:
    predictor = Predictor(Artifact.open(probe), options=SessionOptions(profiling=tmp_path / "profile"))
    predictor.predict([colored(0, 9, 0, size=(16, 16))])
    trace = predictor.end_profiling()
    assert trace.stat().st_size > 0
    assert list(tmp_path.glob("profile*")) == [trace]  # the proof left none


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(probe: Path, change_manifest: Change) -> None:
    variant = Artifact.open(probe).manifest.variants[0].model_dump(mode="json")
    variant["inputs"][0]["shape"] = ["N", 3, 16, 16]
    artifact = change_manifest(probe, variants=[variant])
    with pytest.raises(
        ModelError,
        match=r"probe@1 fp32: the graph takes images uint8 \['N', 16, 16, 3\], "
        r"the manifest says images uint8 \['N', 3, 16, 16\]",
    ):
        Predictor(artifact)


def test_a_file_that_changed_after_its_proof_is_refused(probe: Path) -> None:
    artifact = Artifact.open(probe)
    proof = choose(artifact).chosen
    (probe / "model.fp32.onnx").write_bytes(b"x")
    with pytest.raises(ProviderError, match=r"model\.fp32\.onnx has 1 bytes; the manifest pins"):
        Predictor(artifact)
    with pytest.raises(ArtifactError):
        artifact.verified_path(artifact.manifest.variant(proof.variant))


def test_wrong_labels_count_is_said_with_both_numbers(probe: Path, change_manifest: Change) -> None:
    artifact = change_manifest(probe, labels=["a", "b"])
    with pytest.raises(ModelError, match="probe@1: 4 classes in the output, 2 labels"):
        Predictor(artifact).predict([colored(0, 0, 0, size=(16, 16))])


def test_the_package_offers_it_lazily() -> None:
    assert LazyPredictor is Predictor


def test_mobilenet_agrees_with_torchvision_on_real_photographs(
    test_data: Callable[[str], Path], tmp_path: Path
) -> None:
    with test_data("reference/mobilenet_v2_torchvision_top5.csv").open() as file:
        reference = {row["file"]: row for row in csv.DictReader(file)}
    folder, model = test_data("images/imagenet300"), tmp_path / "mobilenet_v2.onnx"
    model.symlink_to(test_data("models/mobilenet_v2.onnx"))
    imagenet = Preprocess(
        resize=Resize(size=256), crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255
    )
    names = test_data("images/imagenet_labels.txt").read_text().splitlines()
    examples = np.zeros((1, 3, 224, 224), np.float32)
    predictor = Predictor(build_artifact(tmp_path, {"fp32": model}, imagenet, examples, tuple(names)))

    upright = [path for path in sorted(folder.glob("*.JPEG")) if not is_turned(path)]  # torchvision ignores EXIF
    assert len(upright) >= 290
    different, worst = [], 0.0
    for start in range(0, len(upright), 16):
        batch = upright[start : start + 16]
        for path, found in zip(batch, predictor.predict(batch), strict=True):
            expected = reference[path.name]
            if found.label_id != int(expected["idx1"]):
                different.append(path.name)
            worst = max(worst, abs(found.score - float(expected["p1"])))
    assert different == []
    assert worst < 0.02


def is_turned(path: Path) -> bool:
    with Image.open(path) as image:
        return image.getexif().get(0x0112, 1) != 1


def test_an_exif_turned_photograph_is_seen_upright(means: Callable[..., Artifact]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    prepared = Predictor(means()).prepare(load(buffer.getvalue()))
    assert (prepared[:, 4:] == 255).all()
    assert (prepared[:, :4] == 0).all()
