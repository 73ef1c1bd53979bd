"""Bytes to upright 8-bit RGB pixels, or an `ImageError` with a reason code: never a crash, never a black picture.

Rules:
    * The header is read first, and the limit on pixels checked, before anything is decoded.
    * JPEGs in YCbCr or grayscale go through simplejpeg (it agrees with Pillow bit for bit and is
      twice as fast); everything else, and what simplejpeg refuses, goes through Pillow.
    * Grayscale, palette, alpha (composed on white), 16-bit and CMYK become RGB; the EXIF
      orientation is applied; of an animation the first frame counts.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.errors import ImageError

__all__ = ["MAX_PIXELS", "decode", "load"]

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
ORIENTATION_TAG = 0x0112  # EXIF 2.3, table 4
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L")

Pixels = npt.NDArray[np.uint8]

# Our own limit replaces Pillow's; its check would only warn, and at another size.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return the upright picture in *data*.

    Args:
        data: A JPEG, PNG, WebP, BMP, TIFF or GIF file.
        max_pixels: Largest width times height that is decoded.

    Returns:
        uint8, shape (H, W, 3), RGB.

    Raises:
        ImageError: *data* is no usable picture; its ``reason`` says in which way.
    """
    if not data:
        raise ImageError("empty", "the image has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageError("too_large", f"{image.width}x{image.height} pixels; the limit is {max_pixels}")
            return _decode_opened(image, data)
    except UnidentifiedImageError:
        if data.startswith(SIGNATURES):
            raise ImageError("truncated", f"the header of {len(data)} bytes is incomplete or corrupt") from None
        raise ImageError("not_an_image", f"{len(data)} bytes that begin with {data[:8]!r}") from None
    except (OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ImageError("truncated", str(error) or type(error).__name__) from None  # what Pillow's codecs raise
    except (NotImplementedError, KeyError, MemoryError) as error:
        raise ImageError("unsupported", str(error) or type(error).__name__) from None


def load(source: bytes | Path | Pixels) -> Pixels:
    """Return the picture that *source* holds: encoded bytes, a file, or pixels as they are.

    Returns:
        uint8, shape (H, W, 3), RGB.

    Raises:
        ImageError: It is no usable picture, or the file is not there.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ImageError("unsupported", f"array {source.dtype} {source.shape}; expected uint8 (H, W, 3) RGB")
        return source
    if isinstance(source, Path):
        return decode(_read(source))
    return decode(source)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path}: {error.strerror}") from None


def _decode_opened(image: Image.Image, data: bytes) -> Pixels:
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    if image.format == "JPEG" and image.mode in {"RGB", "L"} and orientation == 1:
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
        except ValueError:
            pass  # stricter than Pillow about harmless oddities: Pillow has the last word
        else:
            return pixels
    image.load()
    upright = ImageOps.exif_transpose(image) if orientation != 1 else image
    return np.asarray(_to_rgb(upright))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        high_bytes = np.clip(np.asarray(image, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(high_bytes).convert("RGB")
    if image.mode == "F":
        raise ImageError("unsupported", "floating-point pixels have no agreed range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
