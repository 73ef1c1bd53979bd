"""Which of a graph's outputs plays a role, and what integers of a quantized graph say.

Rules:
    * An output that the manifest names for the role is it; it must be there, and fit.
    * Otherwise it is the first output that fits, in the graph's order.
    * Integer scores are shares of their type's range, as the quantization that TensorFlow Lite prescribes for
      softmax and sigmoid has it. Where a graph ends in neither, they keep the order of the classes and
      no more: the manifest does not know the step of its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.tasks.base import Outputs

__all__ = ["describe_outputs", "find_output", "shares"]

Array = npt.NDArray[Any]

# (step, zero point) of LOGISTIC and SOFTMAX outputs: https://ai.google.dev/edge/litert/models/quantization_spec
QUANTIZED: Mapping[np.dtype[Any], tuple[float, int]] = {
    np.dtype(np.int8): (1 / 256, -128),
    np.dtype(np.uint8): (1 / 256, 0),
    np.dtype(np.int16): (1 / 32768, 0),
    np.dtype(np.uint16): (1 / 65536, 0),
}


def find_output(
    outputs: Outputs, manifest: Manifest, role: str, fits: Callable[[Array], bool], expected: str
) -> tuple[str, Array]:
    """Return name and value of the output that plays *role*.

    Args:
        outputs: Of the graph.
        manifest: ``postprocess.outputs`` may name it.
        role: As the head calls it.
        fits: Whether an output has the type and shape that the role has.
        expected: That type and shape in words.

    Raises:
        ModelError: None fits, or the one that the manifest names is not there or does not fit.
    """
    named = manifest.postprocess.outputs.get(role)
    if named is not None and named not in outputs:
        raise ModelError(
            f"{manifest.reference}: the manifest names output {named!r} for {role}; "
            f"the graph gives {describe_outputs(outputs)}"
        )
    for name in outputs if named is None else (named,):
        if fits(outputs[name]):
            return name, outputs[name]
    found = describe_outputs(outputs if named is None else {named: outputs[named]})
    raise ModelError(f"{manifest.reference}: no output fits {role}: found {found}; expected {expected}")


def describe_outputs(outputs: Outputs) -> str:
    """Return name, type and shape of each of *outputs*, for an error text."""
    return ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in outputs.items()) or "nothing"


def shares(values: Array) -> Array:
    """Return *values* as numbers to reckon with: quantized ones as shares of their range, 0 to 1, others as they are.

    Args:
        values: Any numbers.

    Returns:
        float64 of the same shape where the type is one of `QUANTIZED`; *values* otherwise.
    """
    if values.dtype not in QUANTIZED:
        return values
    step, zero_point = QUANTIZED[values.dtype]
    return (values.astype(np.float64) - zero_point) * step
