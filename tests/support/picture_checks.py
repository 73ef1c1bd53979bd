"""What tests of decoding ask again and again: the reason of a refusal, and what Pillow would give."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from runtime.errors import ImageError
from runtime.images import DecodeOptions, decode

__all__ = ["as_pillow", "picture_or_error", "reason_of"]


def reason_of(data: bytes, options: DecodeOptions | None = None) -> str:
    """Return the reason for which *data* is refused; fail if it is not."""
    with pytest.raises(ImageError) as caught:
        decode(data, options or DecodeOptions())
    return caught.value.reason


def picture_or_error(data: bytes) -> np.ndarray | ImageError:
    """Return what becomes of *data*, of a million pixels at most."""
    try:
        return decode(data, DecodeOptions(max_pixels=1_000_000))
    except ImageError as error:
        return error


def as_pillow(data: bytes, background: str | tuple[int, ...] = "white") -> np.ndarray:
    """Return the upright RGB picture as a script with Pillow decodes it; of 16-bit gray the high byte."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            high = (np.asarray(upright) >> 8).astype(np.uint8)
            return np.repeat(high[..., None], 3, axis=2)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
        return np.asarray(upright.convert("RGB"))
