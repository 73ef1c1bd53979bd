"""Architectures of Flax: the built-in one, and any ``MODULE:FACTORY``.

Rules:
    * A factory is called as ``factory(num_classes=...)``, with ``rngs=`` beside it where it takes that, and returns a
      `flax.nnx.Module` that maps float32 (n, size, size, 3), normalized, to logits (n, num_classes).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx

from controller.lifecycle.training.frameworks import check_logits, make, parameters_of, resolve

__all__ = ["FlaxTiny", "build", "flax_tiny"]

WIDTHS = (32, 64, 128)  # channels of each stage; every stage but the first halves the resolution
COLOURS = 3
KERNEL = (3, 3)
MOMENTUM = 0.9  # of batch normalization, as torch's 0.1: flax' own 0.99 is still at its start after a hundred steps


class FlaxTiny(nnx.Module):
    """A plain convolutional network that a CPU trains in seconds (0.3 M parameters)."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        convolutions, norms, channels = [], [], COLOURS
        for stage, width in enumerate(WIDTHS):
            for stride in (2 if stage else 1, 1):
                convolutions.append(nnx.Conv(channels, width, KERNEL, strides=stride, use_bias=False, rngs=rngs))
                norms.append(nnx.BatchNorm(width, momentum=MOMENTUM, rngs=rngs))
                channels = width
        self.convolutions, self.norms = nnx.List(convolutions), nnx.List(norms)
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Return logits (n, num_classes) for float32 *pixels* (n, height, width, 3)."""
        features = pixels
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = nnx.relu(norm(convolution(features)))
        return self.head(features.mean(axis=(1, 2)))


def flax_tiny(num_classes: int, rngs: nnx.Rngs) -> FlaxTiny:
    """Return a new `FlaxTiny`, with weights drawn from *rngs*."""
    return FlaxTiny(num_classes, rngs=rngs)


def build(name: str, num_classes: int, image_size: int, seed: int = 0) -> nnx.Module:
    """Return a new model of architecture *name*, and see that it fits.

    Args:
        name: Of a built-in one, or ``MODULE:FACTORY``.
        num_classes: Number of logits.
        image_size: Height and width of its inputs, pixels.
        seed: Of its first weights, where the factory takes ``rngs``.

    Raises:
        UsageError: There is no such architecture, its factory cannot be called so, or what it makes does not map
            (n, image_size, image_size, 3) to logits (n, num_classes).
    """
    factory = resolve("flax", name)
    arguments: dict[str, Any] = {"num_classes": num_classes}
    signature = parameters_of(factory)
    if signature is not None and "rngs" in signature.parameters:
        arguments["rngs"] = nnx.Rngs(seed)
    model: nnx.Module = make(name, factory, arguments, lambda made: isinstance(made, nnx.Module), "a flax.nnx.Module")
    model.eval()  # type: ignore[no-untyped-call]  # flax's own is untyped
    pixels = np.zeros((2, image_size, image_size, COLOURS), np.float32)
    compiled = nnx.jit(lambda model, pixels: model(pixels))
    check_logits(name, num_classes, image_size, lambda: compiled(model, pixels))
    return model
