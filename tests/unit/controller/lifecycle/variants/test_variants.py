"""Golden files, INT8, and what becomes of a variant that does not earn its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from exact_int8 import exact_int8

from controller.lifecycle.importers import ImportedModel, load_source
from controller.lifecycle.quantization.recovery.search import Goal
from controller.lifecycle.variants import golden
from controller.lifecycle.variants.building import Workshop
from controller.lifecycle.variants.draft import Card, Draft
from controller.lifecycle.variants.footprint import peak_memory_mb
from controller.lifecycle.variants.judging import judged, measured_speeds
from controller.lifecycle.variants.kinds import VARIANTS
from controller.lifecycle.variants.reference import FP32, Built, build_reference
from controller.lifecycle.variants.verdict import Speed
from runtime.datasets import ArrayDataset
from runtime.errors import UsageError
from runtime.hardware import Part, this_machine
from runtime.manifest import MANIFEST_FILE, Manifest, Postprocess, Preprocess, Provenance, Resize
from runtime.proof import prove_isolated
from runtime.session import Session

PLAIN = Goal(rungs=())  # the searches have tests of their own
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


def ancestors(producers: Mapping[str, onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    """Return the nodes that *name* is made by."""
    node = producers.get(name)
    return [] if node is None else [node, *(one for taken in node.input for one in ancestors(producers, taken))]


@pytest.mark.parametrize(
    ("variant", "least", "most"),
    [
        ("int8-u8s8", {"Transpose"}, {"Transpose", "Reshape"}),  # pixels are what is quantized
        ("int8-s8s8", {"Transpose", "Cast"}, {"Transpose", "Cast", "Mul", "Add"}),
    ],
)
def test_int8_leaves_the_normalization_exact(
    built: Built, pictures: ArrayDataset, tmp_path: Path, variant: str, least: set[str], most: set[str]
) -> None:
    path = Workshop(built, pictures, tmp_path, PLAIN).build(variant)
    graph = onnx.load(path).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("QuantizeLinear") > 0
    producers = {node.output[0]: node for node in graph.node}
    pairs = ("QuantizeLinear", "DequantizeLinear")
    before = ancestors(producers, next(node for node in graph.node if node.op_type == "Conv").input[0])
    embedded = [node for node in before if node.op_type not in pairs]
    assert least <= {node.op_type for node in embedded} <= most
    for node in embedded:
        sources = [producers[name].op_type for name in node.input if name in producers]
        assert "DequantizeLinear" not in sources
    weights = {i.name: i for i in graph.initializer}
    scales = [weights[producers[n.input[1]].input[1]] for n in graph.node if n.op_type == "Conv"]
    assert [list(scale.dims) for scale in scales] == [[8]], "one scale for each output channel"


def test_int8_without_images_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision int8-u8s8 needs real images: give --calibration"):
        Workshop(built, None, tmp_path).build("int8-u8s8")


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


@pytest.fixture
def drafted(built: Built, pictures: ArrayDataset) -> tuple[Draft, Manifest]:
    """A draft of fp32, a quantized variant for CPUs, one for TensorRT, and half precision."""
    workshop = Workshop(built, pictures, built.path.parent, PLAIN)
    wanted = ("int8-u8s8", "int8-s8s8", "fp16")
    return draft_of(built, pictures, {name: workshop.build(name) for name in wanted})


def test_who_earns_a_place_stays_who_does_not_leaves_figures_and_no_file(
    drafted: tuple[Draft, Manifest], pictures: ArrayDataset
) -> None:
    draft, manifest = drafted
    failed = {"int8-qnn": "it cannot be built: so it said"}
    slower, faster = (Speed(latency_ms=2.0, reference_ms=reference) for reference in (1.0, 8.0))
    speeds = {"int8-u8s8": slower, "int8-s8s8": faster}
    made = judged(draft, manifest, pictures, 100, failed=failed, speeds=speeds).manifest
    fp32, s8s8, fp16 = made.variants
    assert [fp32.id, s8s8.id, fp16.id] == ["fp32", "int8-s8s8", "fp16"]
    assert [one.unproven for one in (fp32, s8s8, fp16)] == [False, False, True]
    assert s8s8.metrics["speedup_fp32"] == 4.0
    assert "top1" in fp16.metrics
    assert {"latency_ms", "speedup_fp32"}.isdisjoint(fp16.metrics)  # no device of its class: nothing is claimed
    for variant in (s8s8, fp16):
        kind = VARIANTS[variant.id]
        assert (variant.providers, variant.requires) == (kind.providers, kind.requires)
        assert (variant.precision, variant.device_class) == (kind.precision, kind.device_class)

    slow, unbuilt = made.rejected
    assert slow.reason == "not faster than fp32: 2.000 ms against 1.000 ms"
    assert {"top1", "latency_ms", "agreement_fp32"} <= slow.metrics.keys()
    assert (unbuilt.id, unbuilt.reason, unbuilt.metrics) == ("int8-qnn", failed["int8-qnn"], {})
    assert not (draft.directory / "model.int8-u8s8.onnx").exists()
    with np.load(draft.directory / golden.GOLDEN_FILE) as arrays:
        assert set(arrays) == {"input", *(f"output/{one.id}/scores" for one in made.variants)}
    draft.opened(made).verify()


def test_speed_is_measured_where_a_device_of_the_class_is_at_hand_and_only_there(
    drafted: tuple[Draft, Manifest],
) -> None:
    draft, _ = drafted
    able = replace(this_machine(), cpu_flags=frozenset({"avx512_vnni"}), parts=frozenset({Part.CPU}))
    unable = replace(able, cpu_flags=frozenset())
    names = ("int8-u8s8", "int8-s8s8", "fp16")
    speeds = measured_speeds(draft, names, able)
    assert [*speeds] == ["fp32", "int8-u8s8"]
    assert speeds["fp32"].speedup == 1
    assert speeds["int8-u8s8"].reference_ms == speeds["fp32"].latency_ms
    assert measured_speeds(draft, names, unable) == {}


def test_accuracy_that_falls_too_far_is_rejected_on_any_device(
    drafted: tuple[Draft, Manifest], pictures: ArrayDataset
) -> None:
    draft, _ = drafted
    scrambled = onnx.load(draft.paths["fp16"])
    weights = next(one for one in scrambled.graph.initializer if one.name == "g")
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(-values), "g"))
    onnx.save(scrambled, draft.paths["fp16"])
    draft = Draft.of(draft.directory, draft.reference, {"fp16": draft.paths["fp16"]}, pictures)
    (wrong,) = judged(draft, draft.manifest(CARD), pictures, 100, speeds={}).manifest.rejected
    assert wrong.reason.startswith("further from fp32 than half precision explains: output 'scores' differs")


@exact_int8
def test_variants_give_what_fp32_gives_within_what_their_numbers_explain(drafted: tuple[Draft, Manifest]) -> None:
    draft, manifest = drafted
    expected = draft.outputs[FP32]["scores"]
    for name, most in (("fp16", 1e-2), ("int8-u8s8", 0.1), ("int8-s8s8", 0.1)):
        found = draft.outputs[name]["scores"]
        assert np.abs(found - expected).max() <= most * max(1.0, float(np.abs(expected).max())), name
    assert {str(variant.inputs) for variant in manifest.variants} == {str(manifest.variants[0].inputs)}


def test_accuracy_is_what_a_plain_session_says(built: Built, pictures: ArrayDataset) -> None:
    found = judged(*draft_of(built, pictures, {}), pictures, 0.5)
    made = found.manifest
    assert found.evaluation is not None
    assert found.evaluation.variant == "fp32"
    scores = Session(built.path).run(pictures.images)[0]
    expected = float(np.mean(scores.argmax(1) == pictures.labels))
    assert made.variants[0].metrics["top1"] == pytest.approx(expected, abs=1e-6)
    assert made.variants[0].metrics["top1_images"] == 40
    assert made.requires.disk_mb == 1


def test_memory_is_that_of_the_proof_alone(built: Built) -> None:
    _, manifest = draft_of(built, None, {})
    (built.path.parent / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    ballast = np.ones(60_000_000)  # 480 MB in this process must not be counted
    assert 30 < peak_memory_mb(built.path.parent, FP32) < 300
    assert ballast[0] == 1
