"""Architectures of Keras: the built-in one, and any ``MODULE:FACTORY``.

Rules:
    * A factory is called as ``factory(num_classes=...)`` and returns a `keras.Model` that maps float32
      (n, size, size, 3), normalized, to logits (n, num_classes): without softmax, as the loss wants them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from controller.lifecycle.keras_backend import load_keras
from controller.lifecycle.training.frameworks import check_logits, make, resolve

if TYPE_CHECKING:
    import keras

__all__ = ["build", "keras_tiny"]

WIDTHS = (32, 64, 128)  # channels of each stage; every stage but the first halves the resolution
MOMENTUM = 0.9  # of batch normalization, as torch's 0.1: Keras' own 0.99 is still at its start after a hundred steps


def keras_tiny(num_classes: int) -> keras.Model:
    """Return a plain convolutional network that a CPU trains in seconds (0.3 M parameters)."""
    layers = load_keras().layers
    pixels = features = layers.Input((None, None, 3), name="pixels")
    for stage, width in enumerate(WIDTHS):
        for stride in (2 if stage else 1, 1):
            features = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(features)
            features = layers.BatchNormalization(momentum=MOMENTUM)(features)
            features = layers.ReLU()(features)
    pooled = layers.GlobalAveragePooling2D()(features)
    return load_keras().Model(pixels, layers.Dense(num_classes, name="logits")(pooled), name="keras-tiny")


def build(name: str, num_classes: int, image_size: int) -> keras.Model:
    """Return a new model of architecture *name*, built, and see that it fits.

    Args:
        name: Of a built-in one, or ``MODULE:FACTORY``.
        num_classes: Number of logits.
        image_size: Height and width of its inputs, pixels.

    Raises:
        UsageError: There is no such architecture, its factory does not take ``num_classes``, or what it makes
            does not map (n, image_size, image_size, 3) to logits (n, num_classes).
    """
    keras = load_keras()
    arguments = {"num_classes": num_classes}
    model = make(name, resolve("keras", name), arguments, lambda made: isinstance(made, keras.Model), "a keras.Model")
    pixels = np.random.default_rng(0).normal(size=(2, image_size, image_size, 3)).astype(np.float32)
    with torch.no_grad():
        check_logits(name, num_classes, image_size, lambda: model(pixels, training=False))
    return model
