"""What is inside a JAX function for a batch: what each equation of its jaxpr gives.

Rules:
    * The equations run one by one; those in a function that is merely called (``jit``, a custom derivative) are
      equations like the others, those in a loop or a condition are not looked at.
    * Values that do not depend on the batch (weights, and what is made of them alone) say nothing and are left out.
    * jax2onnx's names are its own: a value is named by its place and its primitive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from controller.lifecycle.importers.source import Array

__all__ = ["values_inside"]

CALLS: Mapping[str, str] = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that call a function once, and the parameter that holds it."""

Known = tuple[Any, bool]
"""A value, and whether it depends on the batch."""


def values_inside(function: Callable[[Any, Any], Any], weights: Any, batch: Array) -> dict[str, Array]:
    """Return the floating point values inside *function* that depend on *batch*, float32 or float64, in order.

    Args:
        function: Takes weights, a tree of arrays, and a batch.
        weights: For it.
        batch: For it.
    """
    closed = jax.make_jaxpr(function)(weights, jnp.asarray(batch))
    given = [(leaf, False) for leaf in jax.tree.leaves(weights)] + [(jnp.asarray(batch), True)]
    made: list[tuple[str, Array]] = []
    _run(closed.jaxpr, [(const, False) for const in closed.consts], given, made)
    return {f"{place}: {name}": array for place, (name, array) in enumerate(made)}


def _run(jaxpr: Jaxpr, consts: Sequence[Known], given: Sequence[Known], made: list[tuple[str, Array]]) -> list[Known]:
    """Run *jaxpr* equation by equation, put what they make into *made*, and return what it gives."""
    known: dict[Any, Known] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *given], strict=True))

    def read(atom: Any) -> Known:
        return (atom.val, False) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        taken = [read(atom) for atom in equation.invars]
        primitive: Any = equation.primitive
        if primitive.name in CALLS:
            inner, inner_consts = _called(equation.params[CALLS[primitive.name]])
            given_back = _run(inner, inner_consts, taken, made)
        else:
            result = primitive.bind(*(value for value, _ in taken), **equation.params)
            depends = any(does for _, does in taken)
            given_back = [(value, depends) for value in (result if primitive.multiple_results else [result])]
            made += [(primitive.name, array) for array in _told(given_back)]
        known.update(zip(equation.outvars, given_back, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _called(function: Any) -> tuple[Jaxpr, list[Known]]:
    if isinstance(function, ClosedJaxpr):
        return function.jaxpr, [(const, False) for const in function.consts]
    return function, []


def _told(values: Sequence[Known]) -> Iterator[Array]:
    """Yield, as NumPy arrays, the floating point ones of *values* that depend on the batch."""
    for value, depends in values:
        if depends and jnp.issubdtype(value.dtype, jnp.floating):
            yield np.asarray(value if value.dtype in (jnp.float32, jnp.float64) else value.astype(jnp.float32))
