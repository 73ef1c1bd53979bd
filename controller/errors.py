"""Every error that the controller raises on purpose.

    VedetteError                     (`runtime.errors`)
    ├── TrainingError                a training run cannot start, go on, or be read
    ├── ExportError                  a model cannot be brought to ONNX, or fails the gate
    └── RegistryError                a model cannot be published
"""

from __future__ import annotations

from runtime.errors import VedetteError

__all__ = ["ExportError", "RegistryError", "TrainingError"]


class TrainingError(VedetteError):
    """A training run cannot start, go on, or be read."""


class ExportError(VedetteError):
    """A model cannot be brought to ONNX, or fails the gate."""


class RegistryError(VedetteError):
    """A model cannot be published."""
