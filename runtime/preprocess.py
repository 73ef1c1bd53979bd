"""From an upright picture to one model input (DESIGN.md §3).

Rules:
    * Pillow's antialiased resize is the reference, since that is what models are trained with. The
      whole picture is resized, then cropped: resizing only the part that the crop keeps (`box=`)
      differs by a grey level here and there, which changed 2 of 300 answers of MobileNetV2.
    * Where the picture goes is `runtime.placement`'s to say; here the pixels move.
    * A picture so long that its resized form would exceed the limit on pixels is `too_large`.
    * An embedded preprocessing leaves uint8 NHWC to the graph, which normalizes itself.
    * An integer input gets rounded and saturated values, as a quantized graph expects.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.errors import ImageError, ModelError
from runtime.images import MAX_PIXELS
from runtime.manifest import Preprocess, Resize, Tensor
from runtime.placement import Placement

__all__ = ["Preprocessor", "find_layout", "normalize", "resize_and_crop"]

Pixels = npt.NDArray[np.uint8]

ANTIALIASED = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
PLAIN = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
BY_COLOR = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


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
    placed = Placement.of(preprocess, *image.shape[:2])
    scaled = image
    if (placed.resized_height, placed.resized_width) != image.shape[:2] and preprocess.resize is not None:
        scaled = _resized(image, preprocess.resize, (placed.resized_height, placed.resized_width))
    kept = scaled[max(0, -placed.top) :, max(0, -placed.left) :][: placed.input_height, : placed.input_width]
    if kept.shape[:2] == (placed.input_height, placed.input_width):
        return np.ascontiguousarray(kept)
    letterbox = preprocess.resize is not None and preprocess.resize.mode == "letterbox"
    filling = preprocess.resize.pad if letterbox and preprocess.resize is not None else 0
    canvas = np.full((placed.input_height, placed.input_width, 3), filling, dtype=np.uint8)
    top, left = max(0, placed.top), max(0, placed.left)
    canvas[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
    return canvas


def _resized(image: Pixels, resize: Resize, size: tuple[int, int]) -> Pixels:
    """Return *image* scaled to *size* (height, width)."""
    height, width = size
    if height * width > MAX_PIXELS:
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise ImageError("too_large", f"{found} would be resized to {width}x{height} pixels; the limit is {MAX_PIXELS}")
    if resize.antialias:
        return np.asarray(Image.fromarray(image).resize((width, height), ANTIALIASED[resize.interpolation]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=PLAIN[resize.interpolation]), dtype=np.uint8)


def _channels(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Return (H, W, C) in the colour order that the input takes."""
    if preprocess.color == "L":
        return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
    if preprocess.embedded or preprocess.color == "RGB":
        return image
    return image[:, :, BY_COLOR[preprocess.color]]


def normalize(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Return ``(pixel * scale - mean) / std`` per channel of *pixels* (..., C), float32."""
    scaled = pixels.astype(np.float32) * np.float32(preprocess.scale)
    mean, std = np.asarray(preprocess.mean, np.float32), np.asarray(preprocess.std, np.float32)
    normalized: npt.NDArray[np.float32] = (scaled - mean) / std
    return normalized


def _cast(values: npt.NDArray[np.float32], tensor: Tensor) -> npt.NDArray[np.generic]:
    """Return *values* in the type of *tensor*; integers are rounded and saturated."""
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError:
        raise ModelError(f"input {tensor.name!r} has type {tensor.dtype}, which no picture can be brought to") from None
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return np.clip(np.rint(values.astype(np.float64)), bounds.min, bounds.max).astype(dtype)
    return values.astype(dtype, copy=False)


def find_layout(tensor: Tensor) -> str:
    """Return ``NHWC`` or ``NCHW``, whichever the image input *tensor* has.

    Raises:
        ModelError: Its shape fits neither, or both.
    """
    if len(tensor.shape) == 4:
        first, last = tensor.shape[1] in {1, 3}, tensor.shape[3] in {1, 3}
        if first != last:
            return "NCHW" if first else "NHWC"
    raise ModelError(
        f"input {tensor.name!r} has shape {list(tensor.shape)}; expected [N,3,H,W] or [N,H,W,3] (1 for gray)"
    )


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Brings pictures to one model's input."""

    preprocess: Preprocess
    tensor: Tensor  # the model's image input

    def __call__(self, image: Pixels) -> npt.NDArray[np.generic]:
        """Return the model input for *image*.

        Args:
            image: uint8, (H, W, 3), RGB.

        Returns:
            Without the batch dimension: uint8 (H', W', C) if the normalization is embedded, otherwise
            (H', W', C) or (C, H', W') in the input's dtype.

        Raises:
            ModelError: The manifest brings the picture to another size than the graph takes.
            ImageError: The picture is ``too_large`` once resized.
        """
        channels = _channels(resize_and_crop(image, self.preprocess), self.preprocess)
        ready: npt.NDArray[np.generic]
        if self.preprocess.embedded:
            ready = channels
        else:
            ready = _cast(normalize(channels, self.preprocess), self.tensor)
            if (self.preprocess.layout or find_layout(self.tensor)) == "NCHW":
                ready = ready.transpose(2, 0, 1)
        self._check(ready.shape)
        return np.ascontiguousarray(ready)

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = self.tensor.shape[1:]
        if len(shape) != len(expected) or any(
            isinstance(e, int) and e != s for e, s in zip(expected, shape, strict=True)
        ):
            raise ModelError(
                f"preprocessing gives {list(shape)}, input {self.tensor.name!r} takes {list(expected)}; "
                "the manifest's resize and crop must lead to the model's size"
            )
