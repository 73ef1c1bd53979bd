"""The gate: what a graph must pass before it is published. Each check names what it found.

Checks, in this order (`check_graph`, then `check_behaviour`):
    * the full ONNX checker, and strict shape inference;
    * opset and IR that published models may have;
    * ONNX Runtime loads it, and its declared inputs and outputs are the real ones;
    * batches of 1 and 3 run (the fixed batch, if it has one) and give finite numbers;
    * those agree with the source, as `controller.lifecycle.parity` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from controller.errors import ExportError
from controller.lifecycle.graph import MAX_IR, MAX_OPSET, load_graph, opset_of, real_inputs
from controller.lifecycle.parity import output_difference
from runtime.errors import ModelError
from runtime.manifest import CustomOps, Tensor
from runtime.session import Session

__all__ = ["BATCHES", "Reference", "check_behaviour", "check_graph", "gate_batches"]

BATCHES = (1, 3)  # neither is the batch that the model was exported with

Array = npt.NDArray[Any]
Reference = Callable[[Array], Sequence[Array]]
"""The source model: what it gives for a batch of what the graph takes."""


def check_graph(path: Path, custom_ops: Sequence[CustomOps] = ()) -> Session:
    """Check the graph in *path* without running it, and return a session on it.

    Args:
        path: Of the file.
        custom_ops: Libraries of operators that it needs.

    Raises:
        ExportError: A check failed; the text says which one and what was found.
    """
    model = load_graph(path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name} is no valid ONNX graph: {' '.join(str(error).split())[:400]}") from None
    if opset_of(model) > MAX_OPSET or model.ir_version > MAX_IR:
        raise ExportError(
            f"{path.name} has opset {opset_of(model)} and IR {model.ir_version}; published are at most opset "
            f"{MAX_OPSET} and IR {MAX_IR}, so that older ONNX Runtimes load it"
        )
    try:
        session = Session(path, custom_ops=custom_ops)
    except ModelError as error:
        raise ExportError(f"ONNX Runtime does not load {path.name}: {error}") from None
    _compare_names(path.name, "inputs", [value.name for value in real_inputs(model)], session.inputs)
    _compare_names(path.name, "outputs", [value.name for value in model.graph.output], session.outputs)
    return session


def _compare_names(name: str, what: str, declared: list[str], real: Sequence[Tensor]) -> None:
    found = [tensor.name for tensor in real]
    if declared != found:
        raise ExportError(f"{name} declares the {what} {', '.join(declared)}; ONNX Runtime sees {', '.join(found)}")


def gate_batches(tensor: Tensor) -> tuple[int, ...]:
    """Return the batch sizes that a graph of input *tensor* is checked with."""
    fixed = tensor.shape[0]
    return (fixed,) if isinstance(fixed, int) else BATCHES


def check_behaviour(session: Session, batches: Sequence[Array], reference: Reference) -> float:
    """Run *batches* through the graph and compare with its source.

    Args:
        session: On the graph.
        batches: In the graph's input dtype.
        reference: The source.

    Returns:
        The largest absolute difference of a floating point output.

    Raises:
        ExportError: It does not run, gives NaN or infinity, or differs too much.
    """
    worst = 0.0
    for batch in batches:
        try:
            found = session.run(batch)
        except ModelError as error:
            raise ExportError(f"the graph does not run a batch of {len(batch)}: {error}") from None
        expected = reference(batch)
        for tensor, ours, theirs in zip(session.outputs, found, expected, strict=True):
            worst = max(worst, output_difference(tensor.name, len(batch), ours, theirs))
    return worst
