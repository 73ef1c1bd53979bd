"""From an upright picture to one model input (DESIGN.md §3).

Rules:
    * Where the picture goes is `runtime.placement`'s to say, and how it is scaled `runtime.resample`'s.
    * Pillow's antialiased resize is the reference, since that is what models are trained with.
    * An embedded preprocessing leaves uint8 NHWC to the graph, which normalizes itself.
    * An integer input gets rounded and saturated values, as a quantized graph expects.
    * A channel of a pixel has 256 values: each is normalized once, and pictures look them up.
    * Features are computed from the normalized pixels, in float32, and are what the graph takes instead of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.errors import ModelError
from runtime.features import hog
from runtime.inputs import image_axes
from runtime.manifest import Preprocess, Tensor
from runtime.placement import Placement
from runtime.resample import Window, resample

__all__ = ["Preprocessor", "find_layout", "normalize", "resize_and_crop"]

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.generic]

BITS_OF = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}
"""By size in bytes: a type that OpenCV copies without looking at what the bits mean."""


def resize_and_crop(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Resize *image* and cut out, or fill up, what the model takes, as *preprocess* says.

    Args:
        image: uint8, (H, W, 3).
        preprocess: ``resize`` and ``crop`` are used.

    Returns:
        uint8, (H', W', 3), contiguous; black outside a crop's picture, ``resize.pad`` around a letterbox's.

    Raises:
        ImageError: ``too_large``: the resized picture would have more pixels than the limit.
    """
    resize, placed = preprocess.resize, Placement.of(preprocess, *image.shape[:2])
    top, left = max(0, placed.top), max(0, placed.left)  # of the picture in the input
    kept = Window(
        top=top - placed.top,
        left=left - placed.left,
        height=min(placed.resized_height + placed.top, placed.input_height) - top,
        width=min(placed.resized_width + placed.left, placed.input_width) - left,
    )
    size = placed.resized_height, placed.resized_width
    part = kept.of(image) if resize is None else resample(image, resize, size, kept)
    if part.shape[:2] == (placed.input_height, placed.input_width):
        return np.ascontiguousarray(part)
    filling = resize.pad if resize is not None and resize.mode == "letterbox" else 0
    canvas = np.full((placed.input_height, placed.input_width, 3), filling, dtype=np.uint8)
    canvas[top : top + kept.height, left : left + kept.width] = part
    return canvas


def _channels(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Return (H, W, C) in the colour order that the input takes."""
    if preprocess.color == "L":
        return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
    if preprocess.color == "BGR" and not preprocess.embedded:
        return image[:, :, ::-1]
    return image


def normalize(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Return ``(pixel * scale - mean) / std`` per channel of *pixels* (..., C), float32."""
    scaled = pixels.astype(np.float32) * np.float32(preprocess.scale)
    mean, std = np.asarray(preprocess.mean, np.float32), np.asarray(preprocess.std, np.float32)
    normalized: npt.NDArray[np.float32] = (scaled - mean) / std
    return normalized


def _cast(values: npt.NDArray[np.float32], tensor: Tensor) -> Values:
    """Return *values* in the type of *tensor*; integers are rounded and saturated."""
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "fiu":
        raise ModelError(f"input {tensor.name!r} has type {tensor.dtype}, which no picture can be brought to")
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return np.clip(np.rint(values.astype(np.float64)), bounds.min, bounds.max).astype(dtype)
    return values.astype(dtype, copy=False)


def _tables(preprocess: Preprocess, tensor: Tensor) -> Values:
    """Return what each value of each channel becomes: (C, 256), in the type of *tensor*; float32 for features."""
    channels = 1 if preprocess.color == "L" else 3
    normalized = normalize(np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1), preprocess)
    values = normalized if preprocess.features is not None else _cast(normalized, tensor)
    return np.ascontiguousarray(values.T)


def _is_planar(preprocess: Preprocess, tensor: Tensor) -> bool:
    """Whether *tensor* takes a plane for each channel, and not pixels."""
    if preprocess.embedded or preprocess.features is not None:
        return False
    return (preprocess.layout or find_layout(tensor)) == "NCHW"


def _check_features(tensor: Tensor) -> None:
    if len(tensor.shape) != 2 or not tensor.dtype.startswith("float"):
        raise ModelError(f"input {tensor} does not take features; expected floating point numbers [N, length]")


def find_layout(tensor: Tensor) -> str:
    """Return ``NHWC`` or ``NCHW``, whichever the image input *tensor* has.

    Raises:
        ModelError: Its shape fits neither, or both.
    """
    layout = image_axes(tensor.shape)
    if layout is None:
        raise ModelError(
            f"input {tensor.name!r} has shape {list(tensor.shape)}; expected [N,3,H,W] or [N,H,W,3] (1 for gray)"
        )
    return layout


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Brings pictures to one model's input."""

    preprocess: Preprocess
    tensor: Tensor  # the model's image input
    _tables: Values | None = field(init=False, repr=False, compare=False)
    _planar: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute what does not depend on the picture.

        Raises:
            ModelError: The input has no type of numbers, its layout is not clear, or it takes no features where
                the manifest gives some.
        """
        if self.preprocess.features is not None:
            _check_features(self.tensor)
        tables = None if self.preprocess.embedded else _tables(self.preprocess, self.tensor)
        object.__setattr__(self, "_tables", tables)
        object.__setattr__(self, "_planar", _is_planar(self.preprocess, self.tensor))

    def __call__(self, image: Pixels, out: Values | None = None) -> Values:
        """Return the model input for *image*.

        Args:
            image: uint8, (H, W, 3), RGB.
            out: Where it is written, and what is returned then; of the shape and type that come out without it.

        Returns:
            Without the batch dimension, contiguous: uint8 (H', W', C) if the normalization is embedded,
            otherwise (H', W', C) or (C, H', W') in the input's dtype; features (length,) where there are some.

        Raises:
            ModelError: The manifest brings the picture to another size than the graph takes, or *out* has.
            ImageError: The picture is ``too_large`` once resized.
        """
        ready: Values = _channels(resize_and_crop(image, self.preprocess), self.preprocess)
        if self._tables is not None:
            planes = [_looked_up(table, ready[:, :, channel]) for channel, table in enumerate(self._tables)]
            ready = np.stack(planes, axis=0 if self._planar else -1)
        if self.preprocess.features is not None:
            ready = _cast(hog(ready[:, :, 0], self.preprocess.features), self.tensor)
        self._check(ready.shape)
        if out is None:
            return np.ascontiguousarray(ready)
        if (ready.shape, ready.dtype) != (out.shape, out.dtype):
            raise ModelError(f"inputs of shapes {sorted({ready.shape, out.shape})} make no batch")
        out[...] = ready
        return out

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = self.tensor.shape[1:]
        if len(shape) != len(expected) or any(
            isinstance(e, int) and e != s for e, s in zip(expected, shape, strict=True)
        ):
            raise ModelError(
                f"preprocessing gives {list(shape)}, input {self.tensor.name!r} takes {list(expected)}; "
                "the manifest's resize and crop must lead to the model's size"
            )


def _looked_up(table: Values, plane: Values) -> Values:
    """Return the entries of *table* (256,) that *plane* (H, W), uint8, names."""
    bits = cv2.LUT(np.ascontiguousarray(plane), table.view(BITS_OF[table.itemsize]))
    return np.asarray(bits).view(table.dtype)
