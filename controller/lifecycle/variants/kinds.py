"""The variants of a model: a table by id, each for one class of devices.

Rules:
    * No file serves a whole fleet: unsigned activations are fast on CPUs with the instructions for them, saturate on
      older ones, and are not what a GPU or an NPU takes.
    * ``int8`` alone means the variant for the processor of this machine; ``all`` means every row that suits the graph.
    * What is built when nothing is said is what this machine can judge: a device of the class is at hand.
    * Everything is made from the reference (`controller.lifecycle.variants.building`); whether it earns its place is
      for `controller.lifecycle.variants.verdict` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from controller.lifecycle.graph import opset_of
from controller.lifecycle.quantization.quantize import Scheme
from controller.lifecycle.variants.halving import halved
from controller.lifecycle.variants.reference import FP32
from controller.lifecycle.variants.weights import dynamic_int8, mostly_matrix_products
from runtime.choice import unfit
from runtime.errors import UsageError
from runtime.hardware import Machine
from runtime.manifest import Variant, VariantRequires
from runtime.providers import Provider, is_installed, preferences
from runtime.session import Session

__all__ = ["ALL", "INT8", "VARIANTS", "Kind", "at_hand", "requested", "variant_of"]

INT8, ALL = "int8", "all"
CPU = ("CPUExecutionProvider",)
TENSORRT = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
GPUS = (
    *TENSORRT,
    "CUDAExecutionProvider",
    "MIGraphXExecutionProvider",
    "CoreMLExecutionProvider",
    "WebGpuExecutionProvider",
)
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")
"""Flags of processors that sum products of 8 bits without saturating: VNNI of x86, dotprod of ARM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A row: which devices a variant is for, and how it is made: by exactly one of *scheme* and *convert*.

    Attributes:
        device_class: In words.
        providers: Execution providers that it is meant for.
        precision: As the manifest calls it.
        requires: Of the processor, where the provider computes on it.
        scheme: Of a static quantization, which takes images to calibrate with.
        convert: Makes it from the reference's graph without images.
        unsuited: Returns why it is of no use for a graph; empty if it may be.
    """

    device_class: str
    providers: tuple[str, ...]
    precision: str
    requires: VariantRequires = field(default_factory=VariantRequires)
    scheme: Scheme | None = None
    convert: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
    unsuited: Callable[[onnx.ModelProto], str] = lambda _graph: ""


VARIANTS: Mapping[str, Kind] = {
    "int8-u8s8": Kind(
        device_class="CPU with VNNI or dotprod",
        providers=CPU,
        precision=INT8,
        requires=VariantRequires(any_cpu_flags=DOT_PRODUCTS),
        scheme=Scheme(),
    ),
    "int8-u8u8": Kind(
        device_class="CPU without VNNI or dotprod",
        providers=CPU,
        precision=INT8,
        requires=VariantRequires(without_cpu_flags=DOT_PRODUCTS),
        scheme=Scheme(weights="uint8"),
    ),
    "int8-s8s8": Kind(
        device_class="TensorRT",
        providers=TENSORRT,
        precision=INT8,
        scheme=Scheme(activations="int8", symmetric=True, explicit_pairs=True),
    ),
    "int8-qnn": Kind(
        device_class="Qualcomm NPU",
        providers=("QNNExecutionProvider",),
        precision=INT8,
        scheme=Scheme(activations="uint16", qnn=True),
    ),
    "fp16": Kind(device_class="GPU", providers=GPUS, precision="fp16", convert=halved),
    "int8-dynamic": Kind(
        device_class="CPU with VNNI or dotprod",
        providers=CPU,
        precision=INT8,
        requires=VariantRequires(any_cpu_flags=DOT_PRODUCTS),
        convert=dynamic_int8,
        unsuited=lambda graph: "" if mostly_matrix_products(graph) else "it is for graphs of matrix products",
    ),
}
"""By id. Of the first two, every processor is of one's class."""


def at_hand(kind: Kind, machine: Machine, installed: Callable[[Provider], bool] = is_installed) -> Provider | None:
    """Return the provider on which *machine* is a device of the class of *kind*; ``None`` if it is none."""
    for provider in preferences(machine):
        fits = provider.name not in CPU or not unfit(kind.requires, machine)
        if provider.name in kind.providers and fits and installed(provider):
            return provider
    return None


def requested(words: Sequence[str], machine: Machine) -> tuple[str, ...]:
    """Return the ids of the variants that *words* mean, fp32 left out; of ``all`` what suits a graph is not decided.

    Args:
        words: Ids, ``int8``, ``all`` and ``fp32``.
        machine: This one.

    Raises:
        UsageError: One means nothing, or fp32 is not among them.
    """
    known = (FP32, INT8, ALL, *VARIANTS)
    if unknown := [word for word in words if word not in known]:
        raise UsageError(f"precision {', '.join(unknown)} cannot be built; expected out of {', '.join(known)}")
    if FP32 not in words and ALL not in words:
        raise UsageError(f"precision {', '.join(words)} needs {FP32} beside it: the others are judged by it")
    native = next(name for name, kind in VARIANTS.items() if kind.scheme and not unfit(kind.requires, machine))
    meant = {FP32: (), INT8: (native,), ALL: tuple(VARIANTS)}
    return tuple(dict.fromkeys(name for word in words for name in meant.get(word, (word,))))


def variant_of(
    path: Path,
    session: Session,
    name: str,
    tolerance: float,
    metrics: Mapping[str, float],
    *,
    kind: Kind | None = None,
) -> Variant:
    """Return the manifest's entry for the ONNX file *path*, on which *session* is.

    Args:
        path: The file.
        session: On it.
        name: Id of the variant.
        tolerance: As the manifest says it.
        metrics: Figures.
        kind: Its row; ``None``: it is the reference, for any device, and called by its precision.
    """
    model = onnx.load(path, load_external_data=False)
    row = kind or Kind(device_class="", providers=("*",), precision=name)
    return Variant(
        **Variant.measure(path),
        id=name,
        precision=row.precision,
        opset=opset_of(model),
        ir=model.ir_version,
        inputs=session.inputs,
        outputs=session.outputs,
        device_class=row.device_class,
        providers=row.providers,
        requires=row.requires,
        tolerance=tolerance,
        metrics=dict(metrics),
    )
