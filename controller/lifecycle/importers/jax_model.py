"""Holds a model of JAX open: a `flax.nnx.Module`, or one of `flax.linen` with its variables.

Rules:
    * The model is in eval mode: nnx's by ``eval()``, and a call that takes one of `MODES` is given its value. The
      statistics of batch normalization do not change, and nothing is dropped.
    * Pictures are float32 NHWC. Products are computed in full float32 wherever the reference runs.
    * Outputs are told apart by their places in what the model gives: alone, or in tuples, lists and mappings.
    * One way leads to ONNX: jax2onnx.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx

from controller.errors import ExportError
from controller.lifecycle.importers.factory import origin_sha256
from controller.lifecycle.importers.jax_graph import convert
from controller.lifecycle.importers.jax_values import values_inside
from controller.lifecycle.importers.jax_weights import fitting, flatten, read_weights
from controller.lifecycle.importers.source import Array, Job, SourceFacts
from runtime.errors import UsageError

__all__ = ["ROUTES", "JaxSource", "call_in_eval_mode", "framework", "load_nnx", "open_built", "weights_of"]

ROUTES = ("jax2onnx",)
MODES: Mapping[str, bool] = {
    "train": False,
    "training": False,
    "is_training": False,
    "inference": True,
    "deterministic": True,
    "use_running_average": True,
}
"""Arguments of a model's call that say whether it trains, and what they are in eval mode."""

Call = Callable[[Any, Any], Any]
"""From weights, a tree of arrays, and pictures to what the model gives."""


def framework() -> str:
    """Return flax with its version."""
    return f"flax {flax.__version__}"


class JaxSource:
    """A model of JAX, open.

    Args:
        call: The model in eval mode, for float32 (n, height, width, channels).
        weights: Its weights, and its statistics.
        shape: (height, width, channels) of what it takes.
        facts: What is known of it.
        name: Of the model, for errors.
        outputs: Names for what it gives; ``None``: made of their places.

    Raises:
        ExportError: It does not run on such pictures.
    """

    def __init__(
        self,
        call: Call,
        weights: Any,
        shape: tuple[int, int, int],
        facts: SourceFacts,
        *,
        name: str,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.facts = facts
        self._weights, self._shape, self._name = weights, shape, name
        self._call: Call = lambda weights, pixels: tuple(jax.tree.leaves(call(weights, pixels)))
        self._compiled = jax.jit(self._call)
        given = self.run(np.zeros((2, *shape), np.float32))
        self._outputs = tuple(outputs or (f"output_{place}" for place in range(len(given))))

    def convert(self, route: str) -> onnx.ModelProto:
        """Return it as ONNX.

        Raises:
            ExportError: jax2onnx cannot convert it.
        """
        if route not in ROUTES:
            raise ExportError(f"{self._name}: there is no route {route!r}; expected {', '.join(ROUTES)}")
        return convert(lambda pixels: self._call(self._weights, pixels), self._shape, self._outputs, self._name)

    def run(self, batch: Array) -> list[Array]:
        """Return what the model gives for *batch*.

        Raises:
            ExportError: It does not take such a batch.
        """
        try:
            with jax.default_matmul_precision("highest"):
                return [np.asarray(output) for output in self._compiled(self._weights, jnp.asarray(batch))]
        except Exception as error:  # the model's own code raises whatever it likes
            raise ExportError(
                f"{self._name} does not run a batch of shape {tuple(batch.shape)} (NHWC) in eval mode: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            ) from error

    def values(self, batch: Array) -> Mapping[str, Array]:
        """Return what the model computes for *batch*, by names of its own, and its outputs by their names."""
        with jax.default_matmul_precision("highest"):
            inside = values_inside(self._call, self._weights, batch)
        return inside | dict(zip(self._outputs, self.run(batch), strict=True))


def call_in_eval_mode(model: nnx.Module) -> tuple[Call, Any]:
    """Return the call of *model* in eval mode, and its weights; the model itself is in eval mode then."""
    model.eval()  # type: ignore[no-untyped-call]  # flax's own is untyped
    modes = _modes(type(model))
    structure, weights = nnx.split(model)
    return lambda weights, pixels: nnx.merge(structure, weights)(pixels, **modes), weights


def _modes(kind: type) -> dict[str, bool]:
    taken = inspect.signature(kind.__call__).parameters
    return {name: value for name, value in MODES.items() if name in taken}


def weights_of(model: nnx.Module) -> dict[str, Any]:
    """Return the weights of *model*, and its statistics, by path; without the states of its random numbers."""
    return dict(flatten(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))))


def load_nnx(model: nnx.Module, weights: Mapping[str, Any], source: Path) -> None:
    """Put *weights*, by path, which come from *source*, into *model*.

    Raises:
        ExportError: They do not fit.
    """
    state = nnx.state(model, nnx.Not(nnx.RngState))
    pure = nnx.to_pure_dict(state)
    fitted = fitting(weights, dict(flatten(pure)), source)
    nnx.replace_by_pure_dict(state, _filled(pure, fitted))
    nnx.update(model, state)


def _filled(tree: Any, weights: Mapping[str, np.ndarray], path: str = "") -> Any:
    """Return *tree*, of mappings and sequences, with *weights* in place of its leaves."""
    if isinstance(tree, Mapping):
        return {key: _filled(value, weights, f"{path}/{key}" if path else str(key)) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_filled(value, weights, f"{path}/{place}") for place, value in enumerate(tree))
    return jnp.asarray(weights[path])


def open_built(model: Any, job: Job) -> JaxSource:
    """Open what a factory made.

    Args:
        model: A `flax.nnx.Module`, a bound `flax.linen.Module`, or a tuple of an unbound one and its variables.
        job: What is asked for.

    Raises:
        UsageError: Nothing says how large its pictures are, or it is a module without variables.
        ExportError: It does not run on such pictures, or the weights are not its own.
    """
    if job.image_size is None:
        raise UsageError(f"--image-size is needed for {job.source}, as in --image-size 224 or 224x320")
    read = {} if job.weights is None else read_weights(job.weights)
    kind: type
    if isinstance(model, nnx.Module):
        if job.weights is not None:
            load_nnx(model, read, job.weights)
        kind, (call, weights) = type(model), call_in_eval_mode(model)
    else:
        module, weights = _linen_parts(model, job.source)
        if job.weights is not None:
            weights = _filled(weights, fitting(read, dict(flatten(weights)), job.weights))
        kind, call = type(module), _linen_call(module)
    made = f"the weights are those that {job.source} leaves in the model; --weights FILE gives others"
    facts = SourceFacts(
        framework=framework(),
        source_sha256=origin_sha256(job),
        routes=ROUTES,
        warnings=(made,) if job.weights is None else (),
    )
    channels = 1 if job.color == "L" else 3
    return JaxSource(call, weights, (*job.image_size, channels), facts, name=kind.__name__)


def _linen_parts(model: Any, source: str) -> tuple[flax.linen.Module, Any]:
    if isinstance(model, flax.linen.Module) and model.scope is not None:
        module, variables = model.unbind()
        return module, flax.core.unfreeze(dict(variables))
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], flax.linen.Module):
        return model[0], flax.core.unfreeze(model[1])
    raise UsageError(
        f"{source} made a {type(model).__name__} without variables; expected (module, variables) of flax.linen, as "
        "module.init gives them, or a bound module"
    )


def _linen_call(module: flax.linen.Module) -> Call:
    modes: Mapping[str, Any] = _modes(type(module))
    return lambda weights, pixels: module.apply(weights, pixels, **modes)
