"""What is tried here, what runs, and what was missed."""

from __future__ import annotations

from typing import Any

import pytest
from machines import machine

from runtime.choice import fallback, fastest, pairs, unfit
from runtime.errors import ProviderError
from runtime.hardware import Part
from runtime.manifest import Manifest, Variant, VariantRequires
from runtime.probe import probe_root
from runtime.proof import Proof
from runtime.providers import find

PROBE = Manifest.parse((probe_root() / "manifest.json").read_bytes())
CPU, CUDA, OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider:CPU"


def variant(name: str, *flags: str, providers: tuple[str, ...] = ("*",)) -> Variant:
    document = PROBE.variants[0].model_dump(mode="json")
    changes = {"id": name, "file": f"{name}.onnx", "providers": providers, "requires": {"cpu_flags": flags}}
    return Variant.model_validate(document | changes)


def proof(reference: str, name: str = "fp32", latency: float | None = 1.0, reason: str = "", **fields: Any) -> Proof:
    provider, _, device = reference.partition(":")
    passed = not reason
    return Proof(
        variant=name,
        provider=provider,
        device=device,
        passed=passed,
        reason=reason or "matched",
        latency_ms=latency,
        **fields,
    )


NVIDIA = machine(parts=(Part.GPU, Part.NVIDIA_GPU))


def test_cpu_flags_decide_on_providers_of_the_cpu_and_on_no_other() -> None:
    made = [variant("int8-vnni", "avx512_vnni"), variant("int8-avx2", "avx2"), variant("fp32")]
    providers = [find(CUDA), find(OPENVINO), find(CPU)]
    tried, skipped = pairs(made, providers, machine("avx2"))
    assert [(pair.variant, pair.provider.reference) for pair in tried] == [
        ("int8-vnni", CUDA),
        ("int8-avx2", CUDA),
        ("fp32", CUDA),
        ("int8-avx2", OPENVINO),
        ("fp32", OPENVINO),
        ("int8-avx2", CPU),
        ("fp32", CPU),
    ]
    assert [str(one) for one in skipped] == [
        f"int8-vnni on {provider}: it needs avx512_vnni, which this processor (Some CPU) lacks"
        for provider in (OPENVINO, CPU)
    ]


def test_all_flags_are_needed() -> None:
    tried, skipped = pairs([variant("int8", "avx2", "avx512_vnni", "amx_int8")], [find(CPU)], machine("avx2"))
    assert tried == []
    assert "it needs avx512_vnni, amx_int8, which" in skipped[0].reason


@pytest.mark.parametrize(
    ("requires", "says"),
    [
        (VariantRequires(any_cpu_flags=("avx512_vnni", "avx2")), ""),
        (VariantRequires(any_cpu_flags=("avx512_vnni", "asimddp")), "it needs avx512_vnni or asimddp, which"),
        (VariantRequires(cpu_flags=("fma",), any_cpu_flags=("amx", "sve")), "it needs fma, amx or sve, which"),
        (VariantRequires(without_cpu_flags=("avx512_vnni",)), ""),
        (
            VariantRequires(cpu_flags=("avx2",), without_cpu_flags=("avx2", "sse2")),
            "it is for processors without avx2, which this processor (Some CPU) has",
        ),
    ],
)
def test_any_flag_may_do_and_a_better_processor_is_for_another_variant(requires: VariantRequires, says: str) -> None:
    found = unfit(requires, machine("avx2"))
    assert found.startswith(says)
    assert bool(found) == bool(says)


def test_what_is_absent_or_meant_for_others_is_named() -> None:
    made = [variant("fp16", providers=(CUDA, "TensorrtExecutionProvider")), variant("int8"), variant("fp32")]
    tried, skipped = pairs(made, [find(CPU)], machine(), present={"fp16", "fp32"})
    assert [pair.variant for pair in tried] == ["fp32"]
    assert [(one.variant, one.reason) for one in skipped] == [
        ("fp16", f"it is meant for {CUDA}, TensorrtExecutionProvider"),
        ("int8", "its file is not here"),
    ]


def test_a_variant_for_a_provider_is_for_all_its_devices() -> None:
    made = [variant("fp32", providers=("OpenVINOExecutionProvider",))]
    tried, _ = pairs(made, [find("openvino:npu"), find(OPENVINO), find(CPU)], machine())
    assert [pair.provider.device for pair in tried] == ["NPU", "CPU"]


def test_of_what_passed_the_fastest_wins() -> None:
    slow, fast, wrong = proof(CPU, latency=8.0), proof(CPU, "int8", 2.0), proof(CPU, "fp16", 0.1, "it said so")
    assert fastest(PROBE, [slow, fast, wrong]) is fast
    assert fastest(PROBE, [slow, proof(CPU, "x", None)]) is slow
    assert fastest(PROBE, [slow, instant := proof(CPU, "x", 0.0)]) is instant


@pytest.mark.parametrize(
    ("fp16", "runs"),
    [
        ({"latency": 0.4}, "fp16"),
        ({"latency": 1.2}, "fp32"),
        ({"latency": 0.4, "reason": "output differs by 0.03 of its range"}, "fp32"),
    ],
)
@pytest.mark.parametrize("gpu", [CUDA, "TensorrtExecutionProvider"])
def test_fp16_runs_on_a_gpu_if_it_is_faster_there_and_right(fp16: dict[str, Any], runs: str, gpu: str) -> None:
    made = [variant("fp32"), variant("fp16", providers=(CUDA, "TensorrtExecutionProvider"))]
    manifest = PROBE.model_copy(update={"variants": tuple(made)})
    tried, skipped = pairs(made, [find(gpu), find(CPU)], NVIDIA)
    assert [(pair.variant, pair.provider.reference) for pair in tried] == [
        ("fp32", gpu),
        ("fp16", gpu),
        ("fp32", CPU),
    ]
    assert [one.variant for one in skipped] == ["fp16"]
    proofs = [proof(gpu, "fp32", 1.0), proof(gpu, "fp16", **fp16), proof(CPU, "fp32", 20.0)]
    chosen = fastest(manifest, proofs, skipped)
    assert (chosen.variant, chosen.reference) == (runs, gpu)


def test_unproven_variant_runs_only_where_it_was_measured_to_be_faster() -> None:
    promised = PROBE.variants[0].model_copy(update={"id": "fp16", "file": "fp16.onnx", "unproven": True})
    manifest = PROBE.model_copy(update={"variants": (promised, *PROBE.variants)})
    proven, faster, alike = proof(CPU, latency=2.0), proof(CPU, "fp16", 1.0), proof(CPU, "fp16", 2.0)
    assert fastest(manifest, [faster, proven]) is faster
    assert fastest(manifest, [alike, proven]) is proven
    unmeasured = proof(CPU, latency=None)
    assert fastest(manifest, [proof(CPU, "fp16", None), unmeasured]) is unmeasured


def test_if_none_passed_each_says_why_not() -> None:
    wrong = proof(CPU, "fp16", reason="it said so")
    _, skipped = pairs([variant("int8", "avx512_vnni")], [find(CPU)], machine())
    with pytest.raises(ProviderError) as caught:
        fastest(PROBE, [wrong], skipped)
    assert str(caught.value) == (
        f"probe@1 runs on no execution provider here: fp16 on {CPU}: it said so; "
        f"int8 on {CPU}: it needs avx512_vnni, which this processor (Some CPU) lacks"
    )
    with pytest.raises(ProviderError, match="no variant that is here is meant for any"):
        fastest(PROBE, [])


def test_the_preferred_provider_is_no_fallback() -> None:
    chosen = proof("TensorrtExecutionProvider")
    assert fallback(NVIDIA, chosen, [chosen]) is None


def test_an_accelerator_without_its_provider_is_missed() -> None:
    said = fallback(NVIDIA, proof(CPU), [proof(CPU)])
    assert said.startswith("TensorrtExecutionProvider was preferred on this machine: not installed: pip install ")


def test_the_first_that_was_preferred_is_the_one_that_is_told() -> None:
    refused, cuda = proof("TensorrtExecutionProvider", reason="TensorRT's libraries are missing"), proof(CUDA)
    assert fallback(NVIDIA, cuda, [refused, cuda]) == (
        "TensorrtExecutionProvider was preferred on this machine: TensorRT's libraries are missing"
    )


def test_an_accelerator_that_is_slower_is_told_with_both_figures() -> None:
    jetson = machine(parts=(Part.NVIDIA_GPU,))
    slow = [proof(name, latency=3.0) for name in ("TensorrtExecutionProvider", CUDA)]
    said = fallback(jetson, chosen := proof(CPU, "int8", 1.25), [*slow, chosen])
    assert said == (
        "TensorrtExecutionProvider was preferred on this machine: it is slower, 3 ms against 1.25 ms of int8 on "
        "CPUExecutionProvider"
    )


def test_a_variant_that_was_not_tried_on_the_preferred_one_says_why() -> None:
    made = [variant("int8", providers=(CPU,))]
    tensorrt = find("tensorrt")
    _, skipped = pairs(made, [tensorrt], NVIDIA)
    said = fallback(NVIDIA, proof(CPU), [proof(CPU)], skipped)
    assert said == f"TensorrtExecutionProvider was preferred on this machine: int8: it is meant for {CPU}"


def test_which_provider_of_the_cpu_runs_is_a_choice_unless_one_was_refused() -> None:
    plain, chosen = machine(), proof(CPU, latency=1.0)
    assert fallback(plain, chosen, [chosen]) is None  # OpenVINO is not installed, and nobody misses it
    assert fallback(plain, chosen, [proof(OPENVINO, latency=2.0), chosen]) is None  # it is slower
    absent = proof(OPENVINO, reason="it is not installed", installed=False)
    assert fallback(plain, chosen, [absent, chosen]) is None
    refused = proof(OPENVINO, reason="output differs")
    assert fallback(plain, chosen, [refused, chosen]) == f"{OPENVINO} was preferred on this machine: output differs"
    faster = proof(OPENVINO)
    assert fallback(plain, faster, [faster, chosen]) is None
