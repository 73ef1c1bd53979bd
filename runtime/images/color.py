"""Every kind of pixels to 8-bit RGB.

Rules:
    * Transparent pixels are composed on the background as Pillow's `alpha_composite` does it.
    * Of 16 bits the high byte counts: a whole 16-bit picture maps to a whole 8-bit one, whatever it shows.
      (Pillow does so for colour; 16-bit gray it would clip at 255, which leaves a white picture.)
    * 32-bit integers and floats have no agreed range: they are refused, not guessed.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Pixels

__all__ = ["from_opencv", "from_pillow"]

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

TO_RGB = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
OPAQUE = (255, 255)  # extrema of an alpha channel that says nothing


def from_pillow(image: Image.Image, options: DecodeOptions, key: tuple[int, ...] | None = None) -> Pixels:
    """Return *image* in RGB: uint8 (H, W, 3).

    Args:
        image: Of any mode; it is loaded.
        options: With the background.
        key: The transparent colour, in the depth of the image's samples.

    Raises:
        ImageError: ``unsupported``: there is no way from its mode to RGB.
    """
    image.load()
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # before Pillow 11
    if sixteen_bits:
        return _keyed(_gray(_high_bytes(np.asarray(image))), np.asarray(image), key, options)
    if image.mode in {"I", "F"}:
        raise ImageError("unsupported", f"32-bit pixels (mode {image.mode}) have no agreed range")
    try:
        if image.has_transparency_data:
            return _composed(image.convert("RGBA"), options)
        pixels = np.asarray(image.convert("RGB"))
    except ValueError as error:  # there is no way from this mode to RGB
        raise ImageError("unsupported", str(error)) from None
    return _keyed(pixels, pixels, key, options)


def from_opencv(samples: Samples, options: DecodeOptions, key: tuple[int, ...] | None = None) -> Pixels:
    """Return what OpenCV read, unchanged, in RGB: uint8 (H, W, 3).

    Args:
        samples: (H, W) gray, (H, W, 3) BGR or (H, W, 4) BGRA; 8 or 16 bits.
        options: With the background.
        key: The transparent colour (gray, or RGB), in the depth of *samples*.
    """
    pixels = _high_bytes(samples) if samples.dtype == np.uint16 else samples.astype(np.uint8, copy=False)
    if pixels.ndim == 2:
        return _keyed(_gray(pixels), samples, key, options)
    pixels = np.asarray(cv2.cvtColor(pixels, TO_RGB[pixels.shape[2]]), np.uint8)
    if pixels.shape[2] == 4:
        return _composed(Image.fromarray(pixels), options)
    return _keyed(pixels, samples[..., ::-1], key, options)


def _high_bytes(values: npt.NDArray[np.integer]) -> Pixels:
    return (values >> 8).astype(np.uint8)


def _gray(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)


def _composed(rgba: Image.Image, options: DecodeOptions) -> Pixels:
    if rgba.getchannel("A").getextrema() != OPAQUE:
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, (*options.background, 255)), rgba)
    return np.asarray(rgba.convert("RGB"))


def _keyed(
    pixels: Pixels, values: npt.NDArray[np.integer], key: tuple[int, ...] | None, options: DecodeOptions
) -> Pixels:
    """Return *pixels* with the background where *values*, (H, W) or (H, W, 3), are the transparent colour."""
    if key is None:
        return pixels
    transparent = (values == key).all(axis=2) if values.ndim == 3 else values == key[0]  # gray: all three alike
    return np.where(transparent[..., None], np.asarray(options.background, np.uint8), pixels)
