"""What is wrong with a model, by the table of the seven classic pitfalls: what was found, its cause, its fix.

Rules:
    * A row looks at evidence alone: what a tool said, the graph, which batches ran, what was measured.
    * The first row that finds something is the diagnosis; rows stand in the order in which one hides another.
    * Whether a diagnosis refuses the model or is a note is the gate's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.lifecycle.gate import symptoms
from controller.lifecycle.gate.symptoms import Evidence

__all__ = ["PITFALLS", "Diagnosis", "Evidence", "Pitfall", "diagnose", "explained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pitfall:
    """One classic way to break a model.

    Attributes:
        id: Short name.
        cause: Why it happens.
        fix: What mends it.
        detect: Says what was found in the evidence; ``None``: it is not this.
    """

    id: str
    cause: str
    fix: str
    detect: Callable[[Evidence], str | None]


PITFALLS: Sequence[Pitfall] = (
    Pitfall(
        id="training-mode",
        cause="the model was not in eval mode when it was exported: batch normalization uses the batch's own "
        "statistics, and dropout draws at random",
        fix="call model.eval() (Keras: training=False) and export it again",
        detect=symptoms.training_mode,
    ),
    Pitfall(
        id="opset",
        cause="the file is stamped with versions of ONNX that the ONNX Runtimes of the fleet do not know",
        fix="export it again with opset 20 or 21 and IR 10: torch.onnx.export(..., opset_version=20), or convert it "
        "with onnx.version_converter.convert_version(model, 21)",
        detect=symptoms.opset_too_new,
    ),
    Pitfall(
        id="operator",
        cause="nobody implements an operator of the model: neither ONNX at the model's opset, nor ONNX Runtime, nor a "
        "library",
        fix="name the library that brings it with --custom-ops PATH, write it with standard operators, or export at "
        "the opset that has it",
        detect=symptoms.unregistered_operator,
    ),
    Pitfall(
        id="layout",
        cause="NHWC and NCHW are mixed up: the input declares its channels in one place, and the operators read them "
        "in another",
        fix="declare the input as the first convolution reads it ((N, 3, H, W)), or put a Transpose (0, 3, 1, 2) in "
        "front of it; for an export from TensorFlow use tf2onnx --inputs-as-nchw",
        detect=symptoms.layout,
    ),
    Pitfall(
        id="fixed-batch",
        cause="a batch size became a constant when the model was traced with one example, mostly in a Reshape",
        fix="export with an example batch of 2 and a dynamic batch (torch: dynamic_shapes=({0: Dim('batch')},)), and "
        "write x.flatten(1) or x.shape[0] instead of the number",
        detect=symptoms.fixed_batch,
    ),
    Pitfall(
        id="shapes",
        cause="shapes cannot be inferred: they depend on numbers that are known at run time only, or contradict what "
        "the file notes",
        fix="export with a fixed picture size and static shapes besides the batch, take data-dependent steps (nonzero, "
        "non-maximum suppression, if on values) out of the model, or fold constants with onnxslim",
        detect=symptoms.shapes,
    ),
    Pitfall(
        id="slow-first-call",
        cause="the first run pays for what all later ones use: an execution provider compiles its kernels or its "
        "engine, memory is allocated lazily, operators load what they need",
        fix="run one picture before serving (Vedette's proof does), and keep the compiled engine between starts",
        detect=symptoms.slow_first_call,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a row of the table found."""

    pitfall: Pitfall
    found: str

    def __str__(self) -> str:
        return f"{self.found}. Cause: {self.pitfall.cause}. Fix: {self.pitfall.fix}"


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """Return what is wrong as far as *evidence* tells; ``None`` if it is none of the classic pitfalls."""
    for pitfall in PITFALLS:
        found = pitfall.detect(evidence)
        if found is not None:
            return Diagnosis(pitfall=pitfall, found=found)
    return None


def explained(text: str, evidence: Evidence) -> str:
    """Return *text*, which says what failed, with the diagnosis if there is one."""
    diagnosis = diagnose(evidence)
    return text if diagnosis is None else f"{text}. {diagnosis.found[:1].upper()}{str(diagnosis)[1:]}"
