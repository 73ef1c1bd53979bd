"""The input of a graph that takes features of a picture and no pixels: a matrix, (n, length).

Rules:
    * Whether a matrix of floating point numbers holds such features, only the preprocessing can say: a graph of one
      is refused where nothing does.
    * The features that the preprocessing computes are as many as the graph takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from controller.lifecycle.graph import dimensions_of, real_inputs
from runtime.errors import UsageError
from runtime.inputs import AUXILIARY
from runtime.manifest import Preprocess, Tensor

__all__ = ["FeatureInput", "check_features", "find_feature_input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInput:
    """The input of a graph that takes features; a string is a dynamic dimension."""

    name: str
    dtype: str  # NumPy's name
    batch: int | str
    length: int | str

    @property
    def tensor(self) -> Tensor:
        """The input as the manifest would say it."""
        return Tensor(name=self.name, dtype=self.dtype, shape=(self.batch, self.length))


def find_feature_input(model: onnx.ModelProto) -> FeatureInput | None:
    """Return the input of *model* that can take features; ``None`` if it has another shape, or is not the only one."""
    inputs = [value for value in real_inputs(model) if value.name not in AUXILIARY]
    if len(inputs) != 1:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)
    shape = dimensions_of(inputs[0])
    if len(shape) != 2 or dtype.kind != "f":
        return None
    return FeatureInput(name=inputs[0].name, dtype=str(dtype), batch=shape[0], length=shape[1])


def check_features(preprocess: Preprocess | None, found: FeatureInput, source: str) -> Preprocess:
    """Return *preprocess*, which must compute what the input *found* of *source* takes.

    Raises:
        UsageError: It computes nothing, or another number of features.
    """
    if preprocess is None or preprocess.features is None or preprocess.size is None:
        raise UsageError(
            f"{source} takes {found.tensor}, a matrix and no pictures; if these are features of a picture, give "
            '--preprocess FILE with "features", otherwise it is no model of ours'
        )
    height, width = preprocess.size
    length = preprocess.features.length(height, width)
    if isinstance(found.length, int) and found.length != length:
        raise UsageError(
            f"the preprocessing computes {length} features of a picture of {height}x{width} pixels, input "
            f"{found.name!r} takes {found.length}; give --preprocess FILE with the parameters that it was trained with"
        )
    return preprocess
