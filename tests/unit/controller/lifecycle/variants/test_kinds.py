"""The table of variants: which there are for whom, and what words mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from machines import machine

from controller.lifecycle.variants.kinds import ALL, INT8, VARIANTS, at_hand, requested
from controller.lifecycle.variants.weights import mostly_matrix_products
from runtime.choice import unfit
from runtime.errors import UsageError
from runtime.hardware import Machine, Part
from runtime.providers import PROVIDERS

VNNI, AVX2, DOTPROD, PI = ("avx2", "avx512_vnni"), ("avx2",), ("asimd", "asimddp"), ("asimd",)


@pytest.mark.parametrize("kind", VARIANTS.values(), ids=VARIANTS)
def test_row_is_for_providers_that_there_are_and_made_in_one_way(kind) -> None:
    assert set(kind.providers) <= {provider.name for provider in PROVIDERS}
    assert (kind.scheme is None) != (kind.convert is None)
    assert kind.device_class


@pytest.mark.parametrize(
    ("flags", "meant"), [(VNNI, "int8-u8s8"), (AVX2, "int8-u8u8"), (DOTPROD, "int8-u8s8"), (PI, "int8-u8u8")]
)
def test_int8_means_the_variant_for_this_processor_and_every_processor_has_one(flags, meant) -> None:
    here = machine(*flags)
    assert requested(("fp32", INT8), here) == (meant,)
    static = [name for name in ("int8-u8s8", "int8-u8u8") if not unfit(VARIANTS[name].requires, here)]
    assert static == [meant]


def test_words_mean_ids_once_each_and_all_means_every_row() -> None:
    here = machine(*VNNI)
    assert requested(("fp32", INT8, "int8-u8s8", "fp16"), here) == ("int8-u8s8", "fp16")
    assert requested((ALL,), here) == tuple(VARIANTS)
    assert requested(("fp32",), here) == ()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fp32", "int4"), "precision int4 cannot be built; expected out of fp32, int8, all, int8-u8s8"),
        (("int8",), "precision int8 needs fp32 beside it"),
    ],
)
def test_what_cannot_be_built_is_refused(words, says) -> None:
    with pytest.raises(UsageError, match=says):
        requested(words, machine(*VNNI))


def test_device_of_a_class_is_at_hand_with_its_hardware_and_its_provider() -> None:
    here = machine(*AVX2, parts=(Part.GPU, Part.NVIDIA_GPU))

    def found(name: str, *installed: str, there: Machine = here) -> str:
        provider = at_hand(VARIANTS[name], there, lambda provider: provider.name in installed)
        return provider.name if provider else ""

    cpu, cuda, tensorrt = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
    assert found("int8-u8u8", cpu) == cpu
    assert found("int8-u8s8", cpu) == ""
    assert found("fp16", cpu) == ""
    assert found("fp16", cpu, cuda) == cuda
    assert found("fp16", cpu, cuda, tensorrt) == tensorrt  # what this machine prefers
    assert found("int8-s8s8", cpu, cuda) == ""
    assert found("fp16", cpu, cuda, there=replace(here, parts=frozenset({Part.CPU}))) == ""


def products(convolutions: int, matrices: int) -> onnx.ModelProto:
    """A graph of so many convolutions and matrix products, of 8 weights each."""
    kinds = ["Conv"] * convolutions + ["MatMul"] * matrices
    weights = [onnx.numpy_helper.from_array(np.ones(8, np.float32), f"w{n}") for n in range(len(kinds))]
    nodes = [onnx.helper.make_node(kind, [f"t{n}", f"w{n}"], [f"t{n + 1}"]) for n, kind in enumerate(kinds)]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], weights))


def test_dynamic_quantization_is_for_graphs_of_matrix_products() -> None:
    transformer, classical = products(1, 6), products(6, 1)
    assert mostly_matrix_products(transformer)
    assert not mostly_matrix_products(classical)
    assert VARIANTS["int8-dynamic"].unsuited(classical)
    assert not VARIANTS["int8-dynamic"].unsuited(transformer)
