"""From a JAX function to an ONNX graph, by jax2onnx, with what it gets wrong put right.

Rules:
    * Opset 21, IR 10, a dynamic batch ``N``, pictures NHWC as JAX has them.
    * The shapes that jax2onnx notes for inner tensors contradict the graph (a transposed tensor keeps the shape from
      before): they are taken out and inferred again.
    * jax2onnx's stand-ins for flax's pooling take their arguments by keyword alone, and no padding by numbers; flax
      takes both, and so does what stands in here.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen
import flax.linen.pooling
import jax.numpy as jnp
import onnx
from flax import nnx

from controller.errors import ExportError

__all__ = ["convert"]

OPSET, IR = 21, 10
BATCH = "N"
INPUT = "pixels"

PADDED_WITH: Mapping[str, float] = {"avg_pool": 0.0, "max_pool": -jnp.inf}
POOLING_MODULES = (nnx, flax.linen, flax.linen.pooling)
SIGNATURES = {name: inspect.signature(getattr(flax.linen.pooling, name)) for name in PADDED_WITH}


def convert(
    function: Callable[[Any], Any], shape: tuple[int, int, int], outputs: Sequence[str], name: str
) -> onnx.ModelProto:
    """Return *function* as ONNX.

    Args:
        function: Takes float32 (n, height, width, channels), and gives arrays in a tuple.
        shape: (height, width, channels).
        outputs: Names for what it gives.
        name: Of the model, for errors.

    Raises:
        ExportError: jax2onnx cannot convert it, or no shapes can be inferred for what it made.
    """
    from jax2onnx import to_onnx

    def traced(pixels: Any) -> Any:
        with _pooling_as_flax_has_it():
            return function(pixels)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses of flax what flax is about to drop
            model: onnx.ModelProto = to_onnx(
                traced,
                inputs=[(BATCH, *shape)],
                opset=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                model_name=name,
            )
    except ExportError:
        raise
    except Exception as error:  # the converter raises whatever the traced code and its own plugins raise
        raise ExportError(f"jax2onnx cannot convert {name}: {_reason(error)}") from error
    model.ir_version = min(model.ir_version, IR)
    del model.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(
            f"jax2onnx made a graph of {name} whose shapes cannot be inferred: {' '.join(str(error).split())[:400]}"
        ) from None


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())[:400]
    if "_DimExpr" not in said:
        return said
    return f"{said}; the size of the batch is no number here: reshape by x.shape[0], not by len(x)"


@contextmanager
def _pooling_as_flax_has_it() -> Iterator[None]:
    """Put between the model and jax2onnx's stand-ins what takes arguments as flax does, for a while."""
    replaced = [(module, name, getattr(module, name)) for module in POOLING_MODULES for name in PADDED_WITH]
    for module, name, stand_in in replaced:
        setattr(module, name, _like_flax(name, stand_in))
    try:
        yield
    finally:
        for module, name, stand_in in replaced:
            setattr(module, name, stand_in)


def _like_flax(name: str, stand_in: Callable[..., Any]) -> Callable[..., Any]:
    def pool(*positional: Any, **named: Any) -> Any:
        bound = SIGNATURES[name].bind(*positional, **named)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        pixels, padding = arguments.pop("inputs"), arguments["padding"]
        if not isinstance(padding, str):
            if arguments.get("count_include_pad") is False:
                raise ExportError(
                    f"{name} with padding {padding} and count_include_pad=False cannot be converted; give padding as "
                    "'SAME' or 'VALID'"
                )
            pixels = jnp.pad(pixels, ((0, 0), *padding, (0, 0)), constant_values=PADDED_WITH[name])
            arguments["padding"] = "VALID"
        return stand_in(pixels, **arguments)

    return pool
