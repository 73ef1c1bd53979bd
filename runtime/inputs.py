"""What a graph takes besides pictures, and what it is given.

Rules:
    * One input takes the pictures: the only one of four dimensions with 1 or 3 channels.
    * Every other input must be one of `AUXILIARY`, by name; it is then told the size of the model's own
      input, so that what comes back is in pixels of the input, as with every other head.
    * A graph that takes anything else is refused by the names of what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Tensor

__all__ = ["AUXILIARY", "feeds", "image_axes", "image_input"]

Array = npt.NDArray[Any]

AUXILIARY: Mapping[str, Callable[[int, int, int], Array]] = {
    # (pictures, height, width of the model's input) -> the value; the first name is RT-DETR's, D-FINE's and DEIM's
    "orig_target_sizes": lambda count, height, width: np.tile([width, height], (count, 1)),
    "im_shape": lambda count, height, width: np.tile([height, width], (count, 1)),  # PaddleDetection
    "scale_factor": lambda count, height, width: np.ones((count, 2)),  # noqa: ARG005 - PaddleDetection: not resized
}


def image_axes(shape: Sequence[int | str]) -> Literal["NCHW", "NHWC"] | None:
    """Return ``NCHW`` or ``NHWC``, whichever *shape* is a batch of pictures in; ``None`` if neither, or both."""
    if len(shape) != 4:
        return None
    first, last = shape[1] in {1, 3}, shape[3] in {1, 3}
    if first == last:
        return None
    return "NCHW" if first else "NHWC"


def image_input(inputs: Sequence[Tensor]) -> Tensor:
    """Return the one of *inputs* that takes the pictures.

    Raises:
        ModelError: There is none, there are several, or there is an input that we have nothing for.
    """
    images = [tensor for tensor in inputs if tensor.name not in AUXILIARY]
    if len(images) == 1:
        return images[0]
    found = ", ".join(map(str, inputs)) or "nothing"
    raise ModelError(
        f"the graph takes {found}; expected one input of pictures, and besides it only {', '.join(AUXILIARY)}"
    )


def feeds(inputs: Sequence[Tensor], image: Tensor, batch: npt.NDArray[np.generic]) -> dict[str, Array]:
    """Return what a run of the graph is given: *batch* for its *image* input, and a value for every other one."""
    given: dict[str, Array] = {image.name: batch}
    for tensor in inputs:
        if tensor.name in AUXILIARY:
            layout = image_axes(image.shape)
            height, width = batch.shape[2:4] if layout == "NCHW" else batch.shape[1:3]
            given[tensor.name] = AUXILIARY[tensor.name](len(batch), height, width).astype(tensor.dtype)
    return given
