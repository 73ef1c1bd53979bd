"""The gate: what a graph must pass before it is published. Each check names what it found, its cause and its fix.

Checks, in this order (`check_graph`, then `check_behaviour`); a failed one refuses the model:
    * it is no graph that ONNX Runtime optimized for one kind of machine;
    * the full ONNX checker, and strict shape inference;
    * opset and IR that published models may have, and no node in training mode;
    * the oldest ONNX Runtime that is claimed loads it, where one is at hand (`controller.lifecycle.gate.oldest`);
    * ONNX Runtime loads it, and its declared inputs and outputs are the real ones;
    * batches of 1 and 3 run (the fixed batch, if it has one), on the oldest ONNX Runtime, too;
    * source and graph answer a picture alike a second time, and whatever stands beside it in the batch;
    * the numbers are finite and those of the source, as `controller.lifecycle.gate.parity` says; where they are not,
      the first node that differs is searched for (`controller.lifecycle.gate.divergence`, and `.matching` where the
      source has other names).
What does not refuse a model but matters is a note: a fixed batch, a slow first run, answers that prove nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from controller.errors import ExportError, ParityError
from controller.lifecycle.gate.diagnosis import Evidence, diagnose, explained
from controller.lifecycle.gate.divergence import find_divergence, share_names
from controller.lifecycle.gate.inner_values import GraphValues
from controller.lifecycle.gate.matching import find_unnamed_divergence
from controller.lifecycle.gate.oldest import OldestRuntime
from controller.lifecycle.gate.parity import allowed_difference, answers_all_alike, label_difference, output_difference
from controller.lifecycle.gate.symptoms import training_nodes
from controller.lifecycle.graph import MAX_IR, MAX_OPSET, load_graph, opset_of, real_inputs
from controller.lifecycle.optimize.offline import refuse_offline
from runtime.errors import ModelError, VedetteError
from runtime.inputs import feeds
from runtime.manifest import CustomOps, Tensor
from runtime.session import Session

__all__ = ["BATCHES", "Behaviour", "Reference", "check_behaviour", "check_graph", "gate_batches"]

BATCHES = (1, 3)  # neither is the batch that the model was exported with
TRACED = 2  # pictures that models are traced with, at most
REASON = 400  # characters of a tool's own that an error takes over
LATER_CALLS = 3
WORTH_TIMING = 0.1  # seconds of the first run
REORDERING = frozenset({"TopK", "NonMaxSuppression", "DynamicQuantizeLinear"})
"""Operators that answer a difference in the last bit with another order, or a whole batch with one scale."""

Array = npt.NDArray[Any]
Reference = Callable[[Array], Sequence[Array]]
"""The source model: what it gives for a batch of what the graph takes."""
Values = Callable[[Array], Mapping[str, Array]]
"""What is inside the source for a batch, by the names in the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a graph that passed behaves.

    Attributes:
        parity: Largest absolute difference of a floating point output from the source; of a source that is
            compared by labels, the largest share of pictures with another label.
        notes: What does not refuse it, but should be known.
    """

    parity: float
    notes: tuple[str, ...] = ()


def check_graph(path: Path, custom_ops: Sequence[CustomOps] = (), oldest: OldestRuntime | None = None) -> Session:
    """Check the graph in *path* without running it, and return a session on it.

    Args:
        path: Of the file.
        custom_ops: Libraries of operators that it needs.
        oldest: The oldest ONNX Runtime that must load it, if it is at hand.

    Raises:
        ExportError: A check failed; the text says which one, what was found, and what mends it.
    """
    model = load_graph(path)
    refuse_offline(model, path.name)
    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        said = " ".join(str(error).split())
        raise _refusal(f"{path.name} is no valid ONNX graph: {said[:REASON]}", said, model) from None
    if opset_of(model) > MAX_OPSET or model.ir_version > MAX_IR:
        raise _refusal(f"{path.name} is too new to be published", "", model)
    if training_nodes(model.graph):
        raise _refusal(f"{path.name} is in training mode", "", model)
    if oldest is not None:
        oldest.run(path, custom_ops=custom_ops)
    try:
        session = Session(path, custom_ops=custom_ops)
    except ModelError as error:
        raise _refusal(f"ONNX Runtime does not load {path.name}: {error}", str(error), model) from None
    _compare_names(path.name, "inputs", [value.name for value in real_inputs(model)], session.inputs)
    _compare_names(path.name, "outputs", [value.name for value in model.graph.output], session.outputs)
    return session


def _refusal(text: str, error: str, model: onnx.ModelProto) -> ExportError:
    return ExportError(explained(text, Evidence(error=error, graph=model)))


def _compare_names(name: str, what: str, declared: list[str], real: Sequence[Tensor]) -> None:
    found = [tensor.name for tensor in real]
    if declared != found:
        raise ExportError(f"{name} declares the {what} {', '.join(declared)}; ONNX Runtime sees {', '.join(found)}")


def gate_batches(tensor: Tensor) -> tuple[int, ...]:
    """Return the batch sizes that a graph of input *tensor* is checked with."""
    fixed = tensor.shape[0]
    return (fixed,) if isinstance(fixed, int) else BATCHES


def check_behaviour(
    session: Session,
    batches: Sequence[Array],
    reference: Reference,
    *,
    path: Path,
    custom_ops: Sequence[CustomOps] = (),
    values: Values | None = None,
    compares_labels: bool = False,
    oldest: OldestRuntime | None = None,
) -> Behaviour:
    """Run *batches* through the graph and compare with its source.

    Args:
        session: On the graph; it has not run yet.
        batches: In the graph's input dtype, the smallest first.
        reference: The source.
        path: Of the graph.
        custom_ops: Libraries of operators that it needs.
        values: What is inside the source, for the search for the first node that differs.
        compares_labels: Only labels are compared.
        oldest: The oldest ONNX Runtime that must run it, if it is at hand.

    Raises:
        ExportError: It does not run, gives NaN or infinity, or differs too much.
    """
    model = load_graph(path)
    found, timing = _run_all(session, batches, model)
    _check_rows(session, batches, found)
    reorders = any(node.op_type in REORDERING for node in model.graph.node)
    if oldest is not None:
        _compare_with_oldest(session, batches, found, path, custom_ops, oldest, judged=not reorders)
    expected = [list(reference(batch)) for batch in batches]
    _check_repeatable(batches[0], expected[0], reference)
    if not reorders:
        _check_independent(session, batches[-1], found[-1])
    notes = _notes(session, timing, expected)
    worst = 0.0
    for batch, ours, theirs in zip(batches, found, expected, strict=True):
        try:
            worst = max(
                worst,
                label_difference(ours, theirs)
                if compares_labels
                else _outputs_difference(session, len(batch), ours, theirs),
            )
        except ParityError as error:
            raise ParityError(
                f"{error}{_where(model, session, batch, custom_ops, values, error.output)}", error.output
            ) from None
    return Behaviour(parity=worst, notes=notes)


def _outputs_difference(session: Session, count: int, ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    pairs = zip(session.outputs, ours, theirs, strict=True)
    return max((output_difference(tensor.name, count, one, other) for tensor, one, other in pairs), default=0.0)


def _run_all(
    session: Session, batches: Sequence[Array], model: onnx.ModelProto
) -> tuple[list[list[Array]], tuple[float, float]]:
    """Run all *batches*; return what they gave, and the seconds of the first run and of later ones.

    Raises:
        ExportError: One does not run; the text says which do.
    """
    found: list[list[Array]] = []
    errors: dict[int, str] = {}
    start = time.perf_counter()
    first = 0.0
    for batch in batches:
        try:
            found.append(session.run(batch))
        except ModelError as error:
            errors[len(batch)] = str(error)
        first = first or time.perf_counter() - start
    if errors:
        size, said = next(iter(errors.items()))
        ran = tuple(len(batch) for batch in batches if len(batch) not in errors)
        evidence = Evidence(error=said, graph=model, ran=ran, failed=tuple(errors))
        raise ExportError(explained(f"the graph does not run a batch of {size}: {said}", evidence))
    return found, (first, _later(session, batches[0]) if first > WORTH_TIMING else first)


def _check_rows(session: Session, batches: Sequence[Array], found: Sequence[Sequence[Array]]) -> None:
    """See that a graph of any batch does not give the same one or two answers for every batch.

    Raises:
        ExportError: It does: the batch that it was traced with is a constant in it.
    """
    sizes = {len(batch) for batch in batches}
    rows = {len(output) if output.ndim > 1 else 0 for outputs in found for output in outputs}
    if session.batch is None and len(sizes) > 1 and len(rows) == 1 and 0 < max(rows) <= TRACED:
        raise ExportError(explained("the graph does not take any batch", Evidence(rows=rows.pop())))


def _later(session: Session, batch: Array) -> float:
    """Return the median seconds of a few more runs."""
    times = []
    for _ in range(LATER_CALLS):
        start = time.perf_counter()
        session.run(batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _compare_with_oldest(
    session: Session,
    batches: Sequence[Array],
    found: Sequence[Sequence[Array]],
    path: Path,
    custom_ops: Sequence[CustomOps],
    oldest: OldestRuntime,
    *,
    judged: bool,
) -> None:
    """Run *batches* on the oldest ONNX Runtime, and compare unless rows may come in another order.

    Raises:
        ExportError: They do not run there, or differ.
    """
    given = [feeds(session.inputs, session.image, batch) for batch in batches]
    for batch, ours, theirs in zip(batches, oldest.run(path, given, custom_ops), found, strict=True):
        try:
            if judged:
                _outputs_difference(session, len(batch), [ours[tensor.name] for tensor in session.outputs], theirs)
        except ParityError as error:
            raise ExportError(
                f"{path.name} gives something else on ONNX Runtime {oldest.version} than on this one: {error}"
            ) from None


def _check_repeatable(batch: Array, expected: Sequence[Array], reference: Reference) -> None:
    """See that the source answers *batch* a second time as before.

    Raises:
        ExportError: It does not.
    """
    changed = _largest_change(expected, reference(batch))
    if changed:
        said = (
            f"the source answers the same batch of {len(batch)} a second time with numbers that are {changed:.2g} off"
        )
        raise ExportError(explained("the source is in training mode", Evidence(unstable=said)))


def _check_independent(session: Session, batch: Array, found: Sequence[Array]) -> None:
    """See that the first picture of *batch* gets alone what it gets among the others.

    Raises:
        ExportError: It does not.
    """
    if session.batch is not None or len(batch) < 2:
        return
    alone = session.run(batch[:1])
    pairs = [(one, other[:1]) for one, other in zip(alone, found, strict=True) if len(np.shape(other)) > 0]
    of_a_picture = [(one, other) for one, other in pairs if one.shape == other.shape]
    changed = _largest_change([other for _, other in of_a_picture], [one for one, _ in of_a_picture])
    if changed:
        said = (
            f"a picture gets numbers alone that are {changed:.2g} off those that it gets in a batch of {len(batch)}: "
            "its answer depends on the pictures beside it"
        )
        raise ExportError(explained("the graph is in training mode", Evidence(unstable=said)))


def _largest_change(before: Sequence[Array], after: Sequence[Array]) -> float:
    """Return the largest difference of a floating point output that is beyond what parity allows; 0 if none is."""
    beyond = [0.0]
    for one, other in zip(before, after, strict=True):
        if one.shape == other.shape and np.issubdtype(one.dtype, np.floating):
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
            beyond.append(float(np.max(apart[apart > allowed_difference(one)], initial=0.0)))
    return max(beyond)


def _where(
    model: onnx.ModelProto,
    session: Session,
    batch: Array,
    custom_ops: Sequence[CustomOps],
    values: Values | None,
    output: str,
) -> str:
    """Return, in words, where the graph leaves its source; empty where the source does not tell."""
    if values is None:
        return ""
    ours = GraphValues(model, feeds(session.inputs, session.image, batch), [library.path for library in custom_ops])
    try:
        theirs = values(batch)
        if not theirs:
            return ""
        outputs = [tensor.name for tensor in session.outputs]
        find = find_divergence if share_names(ours, theirs, outputs) else find_unnamed_divergence
        found = find(model, ours, theirs, [output] if output else outputs)
    except VedetteError as error:
        return f"; the first node that differs could not be found: {error}"
    if found is None:
        return "; no value inside that the source shows differs: ONNX Runtime's optimizations may, or the last node"
    return f"; {found}"


def _notes(session: Session, timing: tuple[float, float], expected: Sequence[Sequence[Array]]) -> tuple[str, ...]:
    notes = []
    slow = diagnose(Evidence(first_call=timing[0], later_calls=timing[1]))
    if slow is not None:
        notes.append(str(slow))
    if session.batch is not None:
        notes.append(
            f"the graph takes batches of {session.batch} and no other size: batch jobs run their pictures in such "
            "groups and fill up the last one; export it with a dynamic batch where that is too slow"
        )
    if answers_all_alike(expected):
        notes.append(
            "the source gives (nearly) the same numbers for different pictures, so that agreement proves little; "
            "import it with trained weights"
        )
    return tuple(notes)
