"""Bytes to upright 8-bit RGB pixels, or an `ImageError` with a reason code: never a crash, never a black picture.

Rules:
    * The header is read first, and the limit on pixels checked, before anything is decoded.
    * What is broken is refused, also where a codec would fill what is missing and say nothing. Each format's
      module knows what its codecs let pass.
    * Grayscale, palette, alpha (composed on a background, white by default), 16-bit and CMYK become RGB; the
      EXIF orientation is applied; of an animation or of several pages the first counts.
    * Pillow is the reference. simplejpeg and OpenCV go before it where they give the same pixels and are
      faster; which one ran is in the result. What uses a GPU runs only where it was asked for.
    * Any thread may call anything here at any time: no codec's global settings are touched.
"""

from __future__ import annotations

import stat
import warnings
from pathlib import Path

import numpy as np

from runtime.errors import ImageError
from runtime.images.base import MAX_BYTES, MAX_PIXELS, Decoded, DecodeOptions, Pixels, explained
from runtime.images.decoders import ACCELERATED, chain_of, decode_with, format_of

__all__ = ["ACCELERATED", "MAX_BYTES", "MAX_PIXELS", "DecodeOptions", "Decoded", "decode", "load", "read"]

# Pillow's remarks on odd metadata would reach the user's stderr; what matters becomes an ImageError.
warnings.filterwarnings("ignore", module=r"PIL\.")

DEFAULT = DecodeOptions()


def decode(data: bytes, options: DecodeOptions = DEFAULT) -> Pixels:
    """Return the upright picture in *data*.

    Args:
        data: A JPEG, PNG, WebP, BMP, TIFF or GIF file.
        options: How to read it.

    Returns:
        uint8, shape (H, W, 3), RGB, contiguous.

    Raises:
        ImageError: *data* is no usable picture; its ``reason`` says in which way.
    """
    return _decode(data, options).pixels


def read(source: bytes | Path | Pixels, options: DecodeOptions = DEFAULT) -> Decoded:
    """Return the picture that *source* holds: encoded bytes, a file, or pixels as they are.

    Raises:
        ImageError: It is no usable picture, or the file is not there; the text names the file.
    """
    if isinstance(source, np.ndarray):
        return Decoded(_checked(source), "pixels")
    if not isinstance(source, Path):
        return _decode(source, options)
    try:
        return _decode(_read(source), options)
    except ImageError as error:
        raise ImageError(error.reason, f"{source}: {error.detail}") from None


def load(source: bytes | Path | Pixels, options: DecodeOptions = DEFAULT) -> Pixels:
    """Return the pixels of `read`: uint8, shape (H, W, 3), RGB."""
    return read(source, options).pixels


def _decode(data: bytes, options: DecodeOptions) -> Decoded:
    if not data:
        raise ImageError("empty", "the image has no bytes")
    found = format_of(data)
    try:
        encoded = found.open(data, options)
        return decode_with(chain_of(encoded), encoded)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - see base.REASONS
        raise explained(error) from None


def _checked(pixels: Pixels) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageError("unsupported", f"array {pixels.dtype} {pixels.shape}; expected uint8 (H, W, 3) RGB")
    if not pixels.size:
        raise ImageError("empty", f"array of shape {pixels.shape}")
    return pixels


def _read(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise ImageError("missing", "not a regular file")
        if found.st_size > MAX_BYTES:
            raise ImageError("too_large", f"{found.st_size} bytes; the limit is {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError("missing", error.strerror or str(error)) from None
