"""How each of the classic pitfalls shows: pure functions from evidence to what was found.

Rules:
    * A symptom names nodes, sizes and figures, so that a person finds the place.
    * What tools say in words is matched here and nowhere else; each pattern was seen in a message of that tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from controller.lifecycle.graph import AI_ONNX, MAX_IR, MAX_OPSET, opset_of, real_inputs

__all__ = [
    "Evidence",
    "fixed_batch",
    "layout",
    "opset_too_new",
    "shapes",
    "slow_first_call",
    "training_mode",
    "training_nodes",
    "unregistered_operator",
]

SLOW_TIMES = 5.0  # the first call as long as so many later ones
SLOW_SECONDS = 0.1  # and so much longer
MOST_NAMED = 4

OPSET = re.compile(
    r"Unsupported model IR version: \d+, max supported IR version: \d+|ir_version \d+ is higher than the checker's"
    r"|only \*guarantees\* support for models stamped|ValidateOpsetForDomain|[Oo]pset \d+ is under development"
    r"|opset \d+ cannot be converted"
)
NO_OPERATOR = re.compile(
    r"No Op registered for (?P<checker>\w+) with domain_version of \d+"
    r"|(?P<runtime>[\w.]*:\w+)\(-?\d+\) is not a registered function/op"
    r"|No ONNX function found for <OpOverload\(op='(?P<dynamo>[\w.]+)'"
    r"|Error when translating node .*target=torch\.ops\.(?!aten\.|prims\.)(?P<node>[\w.]+)"
    r"|[Ee]xporting the operator '(?P<script>[\w:]+)'"
    r"|operator with unrecognized namespace (?P<namespace>[\w:]+)"
    r"|Could not find an implementation for (?P<kernel>\w+)\(\d+\)"
)
CHANNELS = re.compile(
    r"Input channels C is not equal to kernel channels \* group\. C: (?P<got>\d+) kernel channels: (?P<want>\d+)"
    r"|to have (?P<want_torch>\d+) channels, but got (?P<got_torch>\d+) channels"
    r"|Got invalid dimensions for input: (?P<input>\S+) for the following indices index: [13] Got: (?P<given>\d+)"
)
SPECIALIZED = re.compile(
    r"[Cc]onstraints violated \((?P<name>\w+)\)|specialized (?:it )?to be a constant"
    r"|inferred to be a constant \((\d+)\)"
)
DATA_DEPENDENT = re.compile(
    r"data-dependent|GuardOnDataDependent|unbacked symint|ShapeInferenceError|[Ii]nferred shape and existing shape"
)
COLOURS = (1, 3)
ELEMENTWISE = frozenset(
    {"Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "Identity", "Mul", "QuantizeLinear", "Sub"}
)
"""What can stand between the input and the first convolution and leave every dimension in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a model when a check has failed, or has passed with something to say.

    Attributes:
        error: What a tool said: an exporter, the checker, ONNX Runtime.
        graph: The model, if it got that far.
        ran: Batch sizes that ran.
        failed: Batch sizes that did not.
        rows: How many answers every batch gets, whatever its size; 0: as many as it has pictures.
        unstable: What changed although the picture did not, in words.
        first_call: Seconds of the first run; 0: not measured.
        later_calls: Seconds of a later run.
    """

    error: str = ""
    graph: onnx.ModelProto | None = None
    ran: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    rows: int = 0
    unstable: str = ""
    first_call: float = 0.0
    later_calls: float = 0.0


def _constants(graph: onnx.GraphProto) -> Mapping[str, onnx.TensorProto]:
    named = [(node.output[0], a) for node in graph.node if node.op_type == "Constant" for a in node.attribute]
    inside = {name: attribute.t for name, attribute in named if attribute.name == "value"}
    return inside | {weight.name: weight for weight in graph.initializer}


def _named(nodes: Sequence[onnx.NodeProto]) -> str:
    shown = [f"{node.op_type} {node.name or node.output[0]!r}" for node in nodes[:MOST_NAMED]]
    return ", ".join([*shown, *[f"{len(nodes) - MOST_NAMED} more"][: len(nodes) > MOST_NAMED]])


def training_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of *graph* that behave as in training."""
    constants = _constants(graph)

    def trains(node: onnx.NodeProto) -> bool:
        if node.op_type == "BatchNormalization":
            return any(a.name == "training_mode" and a.i for a in node.attribute)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = constants.get(node.input[2])
            return mode is not None and bool(numpy_helper.to_array(mode).any())
        return False

    return [node for node in graph.node if node.domain in AI_ONNX and trains(node)]


def training_mode(evidence: Evidence) -> str | None:
    """Find a model that was exported, or runs, in training mode."""
    if evidence.unstable:
        return evidence.unstable
    found = training_nodes(evidence.graph.graph) if evidence.graph is not None else []
    return f"it computes as in training: {_named(found)}" if found else None


def opset_too_new(evidence: Evidence) -> str | None:
    """Find a model of versions that ONNX Runtimes of the fleet do not load."""
    said = OPSET.search(evidence.error)
    graph = evidence.graph
    too_new = graph is not None and (opset_of(graph) > MAX_OPSET or graph.ir_version > MAX_IR)
    if graph is not None and too_new and (said or not evidence.error):
        return (
            f"it has opset {opset_of(graph)} and IR {graph.ir_version}; published are at most opset {MAX_OPSET} "
            f"and IR {MAX_IR}"
        )
    return f"its versions are not supported: {said[0]}" if said else None


def unregistered_operator(evidence: Evidence) -> str | None:
    """Find an operator that nobody implements."""
    said = NO_OPERATOR.search(evidence.error)
    if said is None:
        return None
    name = next(value for value in said.groupdict().values() if value)
    newer = [schema.since_version for schema in onnx.defs.get_all_schemas_with_history() if schema.name == name]
    if evidence.graph is not None and newer and min(newer) > opset_of(evidence.graph):
        return f"operator {name} came with opset {min(newer)}, the model declares {opset_of(evidence.graph)}"
    return f"operator {name} is not registered"


def layout(evidence: Evidence) -> str | None:
    """Find an input whose channels are not where the graph reads them; only where something failed."""
    if not (evidence.error or evidence.failed):
        return None
    mixed = _first_convolution(evidence.graph) if evidence.graph is not None else None
    if mixed is not None:
        return mixed
    said = CHANNELS.search(evidence.error)
    if said is None:
        return None
    if said["input"]:
        return f"input {said['input']} was given {said['given']} where it declares another number of channels"
    want, got = said["want"] or said["want_torch"], said["got"] or said["got_torch"]
    return f"a convolution wants {want} channels and finds {got}" if int(want) in COLOURS else None


def _first_convolution(model: onnx.ModelProto) -> str | None:
    """Return what is wrong with the layout of the input that the first convolution reads, if it is."""
    constants = _constants(model.graph)
    shape = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in real_inputs(model)
        if len(value.type.tensor_type.shape.dim) == 4
    }
    origin = {name: name for name in shape}
    for node in model.graph.node:
        source = origin.get(node.input[0]) if node.input else None
        if source is None:
            continue
        if node.op_type in ELEMENTWISE:
            origin[node.output[0]] = source
        if node.op_type != "Conv" or node.input[1] not in constants:
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        wanted = constants[node.input[1]].dims[1] * groups
        declared = shape[source]
        if declared[1] not in {0, wanted} or (declared[3] == wanted and declared[1] != wanted):
            return (
                f"input {source!r} is declared {[d or 'N' for d in declared]}, and Conv "
                f"{node.name or node.output[0]!r} reads {wanted} channels from its second dimension"
            )
    return None


def fixed_batch(evidence: Evidence) -> str | None:
    """Find a graph that declares any batch and runs one, or an export that made the batch a constant."""
    places = _named(list(_constant_reshapes(evidence.graph))) if evidence.graph is not None else ""
    constant = f"; these make the first dimension a constant: {places}" if places else ""
    ran, failed = (" and ".join(map(str, sizes)) for sizes in (evidence.ran, evidence.failed))
    if failed and ran:
        return f"it declares any batch, runs batches of {ran} and not of {failed}{constant}"
    if len(evidence.failed) > 1 and constant:
        return f"it declares any batch, and does not run batches of {failed}{constant}"
    if evidence.rows:
        return f"it declares any batch, and gives {evidence.rows} answers however many pictures it is given"
    said = SPECIALIZED.search(evidence.error)
    return f"the batch became a constant: {said[0]}" if said else None


def _constant_reshapes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    constants = _constants(model.graph)
    for node in model.graph.node:
        if node.op_type in {"Reshape", "Expand"} and node.input[1] in constants:
            target = np.atleast_1d(numpy_helper.to_array(constants[node.input[1]]))
            if target.size and target[0] > 0:
                yield node


def shapes(evidence: Evidence) -> str | None:
    """Find shapes that contradict each other, or that nobody knows before the graph runs."""
    said = DATA_DEPENDENT.search(evidence.error)
    if said is None:
        return None
    return f"shapes do not follow from the graph ({said[0]})"


def slow_first_call(evidence: Evidence) -> str | None:
    """Find a first run that took much longer than later ones."""
    extra = evidence.first_call - evidence.later_calls
    if extra < SLOW_SECONDS or evidence.first_call < SLOW_TIMES * evidence.later_calls:
        return None
    return f"the first run took {evidence.first_call:.2g} s, later ones {evidence.later_calls:.2g} s"
