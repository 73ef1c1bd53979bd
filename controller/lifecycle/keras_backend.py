"""Keras on torch, whatever else is installed or configured.

Rules:
    * Keras chooses its backend once, when it is first imported: it is imported through `load_keras` alone.
    * Always torch: what torch exports is exact, and TensorFlow is not needed, not even for what it trained.
    * Channels last and float32, whatever ``keras.json`` says.
    * This module is imported by interpreters other than ours: it needs Keras and torch, no more.
"""

from __future__ import annotations

import os
from typing import Any

from runtime.errors import UsageError

__all__ = ["BACKEND", "load_keras"]

BACKEND = "torch"


def load_keras() -> Any:
    """Return Keras, on torch.

    Raises:
        UsageError: It was imported before, on another backend.
    """
    os.environ["KERAS_BACKEND"] = BACKEND
    import keras

    if keras.backend.backend() != BACKEND:
        raise UsageError(
            f"Keras was imported with the backend {keras.backend.backend()!r} before; Vedette needs "
            f"KERAS_BACKEND={BACKEND} set before the first import"
        )
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    return keras
