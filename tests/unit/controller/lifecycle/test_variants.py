"""Golden files, INT8, and what becomes of a variant that does not earn its place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest

from controller.lifecycle import golden
from controller.lifecycle.draft import Card, Draft
from controller.lifecycle.footprint import peak_memory_mb
from controller.lifecycle.importers import ImportedModel, load_source
from controller.lifecycle.reference import FP32, Built, build_reference
from controller.lifecycle.variants import build_int8
from runtime.artifact import Artifact
from runtime.datasets import ArrayDataset
from runtime.errors import UsageError
from runtime.manifest import MANIFEST_FILE, Manifest, Postprocess, Preprocess, Provenance, Resize
from runtime.proof import prove_isolated
from runtime.session import Session

GraphMaker = Callable[..., onnx.ModelProto]
PREPROCESS = Preprocess(resize=Resize(size=8), crop=(8, 8), scale=1 / 255, mean=(0.5,), std=(0.25,))
CARD = Card(
    name="m",
    task="classification",
    labels=("a", "b", "c", "d"),
    postprocess=Postprocess(kind="classification", top_k=4),
    provenance=Provenance(framework="test", created=datetime(2026, 1, 1, tzinfo=UTC)),
)


@pytest.fixture
def imported(conv_graph: GraphMaker, tmp_path: Path) -> ImportedModel:
    path = tmp_path / "source.onnx"
    onnx.save(conv_graph(), path)
    return load_source(str(path))


@pytest.fixture
def built(imported: ImportedModel, tmp_path: Path) -> Built:
    directory = tmp_path / "build"
    directory.mkdir()
    return build_reference(imported, PREPROCESS, directory)


@pytest.fixture
def pictures() -> ArrayDataset:
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = generator.integers(0, 4, 40)
    return ArrayDataset(uri="p", images=images, labels=labels, label_names=None, source_file="p", fingerprint="f")


def test_normalization_moves_into_the_graph(built: Built) -> None:
    assert built.session.inputs[0].dtype == "uint8"
    assert built.preprocess.embedded
    assert built.parity < 1e-4
    assert built.precision == "fp32"


@pytest.mark.parametrize(
    ("kind", "dtype", "embedded"),
    [(onnx.TensorProto.FLOAT16, "uint8", True), (onnx.TensorProto.DOUBLE, "float64", False)],
    ids=["half", "double"],
)
def test_graph_of_another_float_embeds_if_it_can(kind: int, dtype: str, embedded: bool, tmp_path: Path) -> None:
    made = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["x"], ["c"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            onnx.helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "half",
        [onnx.helper.make_tensor_value_info("x", kind, ["N", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
    )
    path = tmp_path / "half.onnx"
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    built = build_reference(load_source(str(path)), PREPROCESS, tmp_path)
    assert built.preprocess.embedded is embedded
    assert built.session.inputs[0].dtype == dtype
    assert built.parity == 0


def test_int8_leaves_the_normalization_exact(built: Built, pictures: ArrayDataset, tmp_path: Path) -> None:
    path = build_int8(built, pictures, tmp_path)
    graph = onnx.load(path).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("QuantizeLinear") > 0
    producers = {node.output[0]: node for node in graph.node}
    embedded = [node for node in graph.node if node.name.startswith("vedette_")]
    assert {node.op_type for node in embedded} == {"Transpose", "Cast", "Mul", "Add"}
    for node in embedded:
        sources = [producers[name].op_type for name in node.input if name in producers]
        assert "DequantizeLinear" not in sources
    weights = {i.name: i for i in graph.initializer}
    scales = [weights[n.input[1]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0].startswith("w")]
    assert [list(scale.dims) for scale in scales] == [[8]], "one scale for each output channel"


def test_int8_without_images_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 needs real images: give --calibration"):
        build_int8(built, None, tmp_path)


def draft_of(built: Built, pictures: ArrayDataset | None, others: dict[str, Path]) -> tuple[Draft, Manifest]:
    draft = Draft.of(built.path.parent, built, others, pictures)
    return draft, draft.manifest(CARD)


@pytest.mark.parametrize("real", [True, False], ids=["real pictures", "synthetic pictures"])
def test_golden_file_proves_the_model_and_catches_a_wrong_one(built: Built, pictures: ArrayDataset, real: bool) -> None:
    draft, manifest = draft_of(built, pictures if real else None, {})
    root = built.path.parent
    (root / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    proof = prove_isolated(root, FP32, "CPUExecutionProvider")
    assert proof.passed, proof.reason
    wrong = {FP32: {"scores": draft.outputs[FP32]["scores"] + np.float32(0.1)}}
    golden.write_golden(root, draft.batch, wrong)
    pinned = manifest.golden.measure(root / golden.GOLDEN_FILE)
    changed = manifest.model_copy(update={"golden": manifest.golden.model_copy(update=pinned)})
    (root / MANIFEST_FILE).write_bytes(changed.to_bytes())
    refused = prove_isolated(root, FP32, "CPUExecutionProvider")
    assert not refused.passed
    assert "output 'scores' differs from the golden output by 0.0" in refused.reason


def test_golden_file_is_the_same_every_time(built: Built) -> None:
    draft, _ = draft_of(built, None, {})
    first = (built.path.parent / golden.GOLDEN_FILE).read_bytes()
    golden.write_golden(built.path.parent, draft.batch, draft.outputs)
    assert (built.path.parent / golden.GOLDEN_FILE).read_bytes() == first
    assert len(draft.batch) == golden.PICTURES


def test_tolerance_of_int8_grows_with_what_quantization_changed() -> None:
    def tolerance(found: dict[str, float], fp32: dict[str, float]) -> float:
        return golden.int8_tolerance(*({name: np.array([v, 0.0]) for name, v in o.items()} for o in (found, fp32)))

    assert tolerance({"y": 10.0}, {"y": 10.0}) == golden.TOLERANCES["int8"]
    assert tolerance({"y": 10.5}, {"y": 10.0}) == pytest.approx(2 * 0.5 / 10.5)
    assert tolerance({"y": 0.5}, {"y": 0.4}) == pytest.approx(0.2), "below 1 the difference itself counts"
    boxes_and_scores = tolerance({"boxes": 640.0, "scores": 0.5}, {"boxes": 639.0, "scores": 0.4})
    assert boxes_and_scores == pytest.approx(0.2), "each output in its own range"


def test_golden_outputs_that_are_large_are_of_fewer_pictures() -> None:
    output = np.zeros((3, 1_000_000), np.float32)
    assert golden.pictures_within_limit({"y": output[:, :1000]}, 3) == 3
    assert golden.pictures_within_limit({"y": output, "z": output}, 3) == 2
    assert golden.pictures_within_limit({"y": np.zeros((3, 9_000_000), np.float32)}, 3) == 1


def test_rejected_variant_leaves_its_figures_and_no_file(built: Built, pictures: ArrayDataset) -> None:
    directory = built.path.parent
    draft, manifest = draft_of(built, pictures, {"int8": build_int8(built, pictures, directory)})
    assert [variant.id for variant in manifest.variants] == ["fp32", "int8"]
    slow = [
        v.model_copy(update={"metrics": {**v.metrics, "latency_ms": 1.0 if v.id == FP32 else 2.0}})
        for v in manifest.variants
    ]
    judged = draft.judged(manifest.model_copy(update={"variants": tuple(slow)}), pictures, max_drop=100)
    assert [variant.id for variant in judged.variants] == ["fp32"]
    assert judged.rejected[0].reason == "not faster than fp32: 2.000 ms against 1.000 ms"
    assert {"top1", "latency_ms", "agreement_fp32"} <= judged.rejected[0].metrics.keys()
    assert not (directory / "model.int8.onnx").exists()
    with np.load(directory / golden.GOLDEN_FILE) as arrays:
        assert set(arrays) == {"input", "output/fp32/scores"}
    Artifact.open(directory).verify()


def test_accuracy_is_what_a_plain_session_says(built: Built, pictures: ArrayDataset) -> None:
    draft, manifest = draft_of(built, pictures, {})
    judged = draft.judged(manifest, pictures, max_drop=0.5)
    scores = Session(built.path).run(pictures.images)[0]
    expected = float(np.mean(scores.argmax(1) == pictures.labels))
    assert judged.variants[0].metrics["top1"] == pytest.approx(expected, abs=1e-6)
    assert judged.variants[0].metrics["top1_images"] == 40
    assert judged.requires.disk_mb == 1


def test_memory_is_that_of_the_proof_alone(built: Built) -> None:
    _, manifest = draft_of(built, None, {})
    (built.path.parent / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    ballast = np.ones(60_000_000)  # 480 MB in this process must not be counted
    assert 30 < peak_memory_mb(built.path.parent, FP32) < 300
    assert ballast[0] == 1
