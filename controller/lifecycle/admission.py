"""Who may come in: what a stranger's graph takes, gives and computes with, before ONNX Runtime sees it.

Rules:
    * One input takes pictures; every other one must be of those that `runtime.inputs` can fill in. A recurrent
      model, whose state goes in and out again, takes more than a picture and is refused.
    * An operator of a domain that neither ONNX Runtime nor the file itself defines needs a library, which a
      person names.
    * Outputs that hold no numbers (a classifier's labels as text) are taken off: no head reads them.
    * Pictures whose channels are left open by the graph, but named as such, have three.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from controller.lifecycle.feature_input import find_feature_input
from controller.lifecycle.graph import AI_ONNX, real_inputs
from runtime.errors import UsageError
from runtime.inputs import AUXILIARY, image_axes

__all__ = ["check_inputs", "check_operators", "describe_value", "no_pictures", "numeric_outputs", "with_three_channels"]

COLOURS = 3


def describe_value(value: onnx.ValueInfoProto) -> str:
    """Return name, type and shape of a graph's input or output, for people."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return f"{value.name} ({(kind or 'no type').removesuffix('_type')})"
    shape = [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
    return f"{value.name} {_type_name(value)} {shape}"


def _type_name(value: onnx.ValueInfoProto) -> str:
    return str(TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()


def _is_numeric(value: onnx.ValueInfoProto) -> bool:
    if not value.type.HasField("tensor_type"):
        return False
    try:
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    except KeyError:
        return False
    return dtype.kind in "fiub"


def check_inputs(model: onnx.ModelProto, source: str) -> None:
    """See that *model*, which came from *source*, takes pictures, or a matrix, and nothing else that we have not.

    Raises:
        UsageError: It takes something else; the text names all its inputs.
    """
    inputs = real_inputs(model)
    pictures = [value for value in inputs if value.name not in AUXILIARY]
    expected = f"expected one input of pictures, and besides it only {', '.join(AUXILIARY)}"
    if len(pictures) > 1:
        raise UsageError(
            f"{source} takes {len(inputs)} inputs: {_listed_inputs(model)}; {expected}. Export a model that takes the "
            "picture alone: make what never changes a constant inside it, and what is made of the picture a step of "
            "it. Pairs of pictures, and what a recurrent model carries from picture to picture, are not served"
        )
    takes_pictures = pictures and _is_numeric(pictures[0]) and len(pictures[0].type.tensor_type.shape.dim) == 4
    if not takes_pictures and (not pictures or find_feature_input(model) is None):
        raise no_pictures(model, source)


def no_pictures(model: onnx.ModelProto, source: str) -> UsageError:
    """Return the refusal of *model*, which came from *source*, for want of an input of pictures."""
    return UsageError(
        f"{source} does not take pictures: expected one input of four dimensions with 1 or 3 channels; its inputs "
        f"are: {_listed_inputs(model)}"
    )


def _listed_inputs(model: onnx.ModelProto) -> str:
    return ", ".join(describe_value(value) for value in real_inputs(model)) or "none"


def with_three_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* with three channels in its input of pictures, where the graph names that dimension but fixes none.

    Exporters that make every dimension dynamic, such as Hugging Face's, call it ``num_channels``.
    """
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    for value in real_inputs(pinned):
        dimensions = value.type.tensor_type.shape.dim
        shape = [d.dim_value or d.dim_param for d in dimensions]
        if value.name in AUXILIARY or len(shape) != 4 or image_axes(shape) is not None:
            continue
        for place in (1, 3):
            if "channel" in dimensions[place].dim_param:
                dimensions[place].dim_value = COLOURS
    return pinned


def numeric_outputs(model: onnx.ModelProto) -> list[int]:
    """Return the positions of those outputs of *model* that are tensors of numbers."""
    return [index for index, value in enumerate(model.graph.output) if _is_numeric(value)]


def check_operators(model: onnx.ModelProto, source: str) -> None:
    """See that ONNX Runtime, or *model* itself, has every operator of a domain other than ONNX's own.

    Raises:
        UsageError: One is unknown; the text names domains and operators.
    """
    known = {(schema.domain, schema.name) for schema in get_all_operator_schema()}
    known |= {(function.domain, function.name) for function in model.functions}
    used = {*_operators(model.graph.node), *(used for f in model.functions for used in _operators(f.node))}
    unknown: dict[str, set[str]] = {}
    for domain, operator in used - known:
        if domain not in AI_ONNX:
            unknown.setdefault(domain, set()).add(operator)
    if unknown:
        listed = "; ".join(f"of domain {domain!r}: {', '.join(sorted(names))}" for domain, names in unknown.items())
        raise UsageError(
            f"{source} uses operators that ONNX Runtime {onnxruntime.__version__} does not have, {listed}; if a "
            "library brings them, name it with --custom-ops PATH"
        )


def _operators(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    """Yield (domain, operator) of *nodes* and of the graphs inside them."""
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _operators(graph.node)
