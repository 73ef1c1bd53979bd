"""Which candidates there are, what is worth a trial beside what passed, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.trials import Candidate, Trial, candidates, fastest, rivals, variant_proofs
from runtime.hardware import this_machine
from runtime.manifest import VariantRequires
from runtime.proof import Proof

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def test_the_preferred_provider_comes_first_then_the_fastest_variant_and_fp32_last(manifest):
    made = manifest(
        ("fp32", "fp32", 1.0, ("*",)),
        ("fp16", "fp16", 2.0, (CUDA,)),
        ("int8-slow", "int8", 9.0, ("*",)),
        ("int8", "int8", 3.0, ("*",)),
        ("int8-unmeasured", "int8", None, (CPU,)),
    )
    assert [str(candidate) for candidate in candidates(made, [CUDA, CPU], this_machine())] == [
        f"fp16 on {CUDA}",
        f"int8 on {CUDA}",
        f"int8-slow on {CUDA}",
        f"fp32 on {CUDA}",
        f"int8 on {CPU}",
        f"int8-slow on {CPU}",
        f"int8-unmeasured on {CPU}",
        f"fp32 on {CPU}",
    ]


def test_a_variant_for_another_processor_is_no_candidate_on_the_cpu(manifest):
    made = manifest(("fp32", "fp32", 1.0, ("*",)), ("int8", "int8", 0.5, ("*",)))
    demanding = made.variants[1].model_copy(update={"requires": VariantRequires(cpu_flags=("avx512_vnni",))})
    made = made.model_copy(update={"variants": (made.variants[0], demanding)})
    able = replace(this_machine(), cpu_flags=frozenset({"avx512_vnni"}))
    unable = replace(this_machine(), cpu_flags=frozenset({"avx2"}))
    assert [c.variant for c in candidates(made, [CPU], able)] == ["int8", "fp32"]
    assert [c.variant for c in candidates(made, [CPU], unable)] == ["fp32"]
    assert [c.variant for c in candidates(made, [CUDA], unable)] == ["int8", "fp32"]  # the GPU has its own


def test_a_candidate_names_the_device_of_its_provider(manifest):
    made = manifest(("fp32", "fp32", 1.0, ("OpenVINOExecutionProvider",)))
    found = candidates(made, ["OpenVINOExecutionProvider:GPU", CPU], this_machine())
    assert [str(candidate) for candidate in found] == ["fp32 on OpenVINOExecutionProvider:GPU"]


def unproven(manifest, *ids):
    """Return *manifest* with the variants *ids* unproven, and no latency claimed for them."""
    changed = [
        variant.model_copy(update={"unproven": True, "metrics": {}}) if variant.id in ids else variant
        for variant in manifest.variants
    ]
    return manifest.model_copy(update={"variants": tuple(changed)})


def test_unproven_variants_come_after_all_that_is_proven_on_their_provider(manifest):
    made = manifest(("fp32", "fp32", 9.0, ("*",)), ("s8s8", "int8", 1.0, (TENSORRT,)), ("u8s8", "int8", 3.0, (CPU,)))
    found = candidates(unproven(made, "s8s8"), [TENSORRT, CPU], this_machine())
    assert [str(one) for one in found] == [
        f"fp32 on {TENSORRT}", f"s8s8 on {TENSORRT}", f"u8s8 on {CPU}", f"fp32 on {CPU}"
    ]  # fmt: skip
    assert [(one.unproven, one.is_reference) for one in found[:3]] == [(False, True), (True, False), (False, False)]


def proven(name, provider, latency=1.0, **fields):
    return Trial(Candidate(name, provider, **fields), latency)


FP32 = Candidate("fp32", CPU, is_reference=True)
S8S8 = Candidate("s8s8", CPU, unproven=True)
ELSEWHERE = Candidate("fp16", CUDA, unproven=True)


@pytest.mark.parametrize(
    ("rest", "trials", "worth"),
    [
        ([FP32], [proven("int8", CPU)], []),  # published figures say which is faster
        ([FP32, S8S8], [proven("int8", CPU)], [S8S8, FP32]),
        ([FP32], [proven("int8", CPU), proven("s8s8", CPU, unproven=True)], [FP32]),  # what it is compared with
        ([ELSEWHERE], [proven("int8", CPU)], []),  # on a provider that is preferred less
        ([FP32, ELSEWHERE], [proven("s8s8", CUDA, unproven=True)], [FP32, ELSEWHERE]),  # nothing proven yet
    ],
)
def test_only_what_is_unproven_is_worth_another_download(rest, trials, worth):
    assert list(rivals(rest, trials)) == worth


def test_unproven_variant_serves_only_if_it_is_measured_to_be_faster():
    def choice(proven_ms, unproven_ms):
        return fastest([proven("int8", CPU, proven_ms), proven("s8s8", CPU, unproven_ms, unproven=True)]).variant

    assert choice(3.0, 2.0) == "s8s8"
    assert choice(2.0, 2.0) == "int8"
    assert choice(None, None) == "int8"
    assert fastest([proven("s8s8", CUDA, 2.0, unproven=True)]).variant == "s8s8"


def test_what_is_told_is_compared_with_fp32_on_the_same_provider(manifest):
    made = manifest(("fp32", "fp32", 9.0, ("*",)), ("s8s8", "int8", 1.0, ("*",)), ("fp16", "fp16", 1.0, ("*",)))

    def proof(name, provider, latency, reason=""):
        passed = not reason
        return Proof(variant=name, provider=provider, passed=passed, reason=reason or "it did", latency_ms=latency)

    proofs = [
        proof("fp32", CPU, 8.0), proof("fp32", CUDA, 6.0), proof("s8s8", CUDA, 2.0),
        proof("fp16", CPU, None, "it differs"),
    ]  # fmt: skip
    fast, refused = variant_proofs(unproven(made, "s8s8", "fp16"), proofs, "nvidia")
    assert (fast.variant, fast.provider, fast.device_class, fast.speedup) == ("s8s8", CUDA, "nvidia", 3.0)
    assert (refused.passed, refused.reason, refused.speedup) == (False, "it differs", None)
    assert variant_proofs(made, proofs, "nvidia") == ()
