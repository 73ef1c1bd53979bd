"""Bytes to upright 8-bit RGB pixels, or an `ImageError` with a reason code: never a crash, never a black picture.

Rules:
    * The signature chooses the reader, the name of a file says nothing.
    * The header is read first, and the limit on pixels checked, before anything is decoded.
    * JPEGs in YCbCr or grayscale go through simplejpeg (it agrees with Pillow bit for bit and is
      twice as fast); everything else, and what simplejpeg refuses, goes through Pillow. A JPEG whose
      compressed data is damaged is refused, although Pillow would paint the rest of it gray.
    * Grayscale, palette, alpha (composed on white), 16-bit and CMYK become RGB; the EXIF
      orientation is applied; of an animation the first frame counts.
    * Damaged EXIF data costs the orientation, not the picture.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from runtime.errors import ImageError, ImageReason

__all__ = ["MAX_BYTES", "MAX_PIXELS", "DecodeOptions", "Decoded", "decode", "load", "read"]

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30  # of a file

# The readers themselves, since `Image.open` has a limit on pixels of its own: global, smaller, and only a warning.
READERS: Sequence[tuple[re.Pattern[bytes], type[ImageFile]]] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG"), PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), BmpImageFile),  # any known header size
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)

# What an exception of the codecs means, most special first; hostile bytes make them raise anything.
REASONS: Sequence[tuple[type[Exception], ImageReason]] = (
    (Image.DecompressionBombError, "too_large"),
    (MemoryError, "too_large"),
    (NotImplementedError, "unsupported"),
    (KeyError, "unsupported"),
    (Exception, "truncated"),
)
UNSUPPORTED_TEXT = re.compile("cannot handle|unsupported|not supported", re.IGNORECASE)

# libjpeg-turbo's words for compressed data that is not what the encoder wrote.
DAMAGED_JPEG = re.compile("premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST")

ORIENTATION_TAG = 0x0112  # EXIF 2.3, table 4
UPRIGHT: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}

# Pillow's remarks on odd metadata would reach the user's stderr; what matters becomes an ImageError.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How pictures are read.

    Attributes:
        max_pixels: Largest width times height that is decoded.
        background: RGB grey levels that transparent pixels are composed on.
        allow_truncated: Take what is there of a picture that ends early.
    """

    max_pixels: int = MAX_PIXELS
    background: tuple[int, int, int] = (255, 255, 255)
    allow_truncated: bool = False


DEFAULT = DecodeOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A picture, and how it was read.

    Attributes:
        pixels: uint8, (H, W, 3), RGB, upright, contiguous.
        decoder: What decoded it: ``simplejpeg``, ``opencv``, ``pillow``, or ``pixels`` for what was an array.
        truncated: It ended early; what was missing is filled.
    """

    pixels: Pixels
    decoder: str
    truncated: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


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


def _decode(data: bytes, options: DecodeOptions) -> Decoded:
    if not data:
        raise ImageError("empty", "the image has no bytes")
    reader = next((reader for signature, reader in READERS if signature.match(data)), None)
    if reader is None:
        raise ImageError("not_an_image", f"{len(data)} bytes that begin with {data[:8]!r}")
    try:
        with reader(io.BytesIO(data)) as image:
            _check_size(image, options.max_pixels)
            pixels, decoder = _fast_jpeg(image, data), "simplejpeg"
            if pixels is None:
                image.load()
                _verify_checksums(image, data)
                pixels, decoder = np.asarray(_to_rgb(image)), "pillow"
            upright = np.ascontiguousarray(UPRIGHT.get(_orientation(image), np.asarray)(pixels))
            return Decoded(upright, decoder)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - see REASONS
        raise _explained(error) from None


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


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageError("too_large", f"{image.width}x{image.height} pixels; the limit is {max_pixels}")
    if image.width < 1 or image.height < 1:
        raise ImageError("truncated", f"the header says {image.width}x{image.height} pixels")


def _explained(error: Exception) -> ImageError:
    text = " ".join(str(error).split()) or type(error).__name__
    reason = next(reason for kind, reason in REASONS if isinstance(error, kind))
    return ImageError("unsupported" if UNSUPPORTED_TEXT.search(text) else reason, text)


def _fast_jpeg(image: Image.Image, data: bytes) -> Pixels | None:
    """Return what simplejpeg makes of *data*; ``None`` if that is not for it, or it is stricter than it need be."""
    if image.format != "JPEG" or image.mode not in {"RGB", "L"}:
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
    except ValueError as error:
        if DAMAGED_JPEG.search(str(error)):
            raise
        return None
    return pixels


def _verify_checksums(image: Image.Image, data: bytes) -> None:
    """Raise unless each chunk of a PNG has the checksum that it says; Pillow's decoder skips those of the pixels."""
    if image.format == "PNG":
        with PngImageFile(io.BytesIO(data)) as unread:
            unread.verify()


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied; Pillow applies a TIFF's itself."""
    try:
        value = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - metadata is as hostile as the rest
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # the latter before Pillow 11
        return _from_sixteen_bits(image)
    if image.mode in {"I", "F"}:
        raise ImageError("unsupported", f"32-bit pixels (mode {image.mode}) have no agreed range")
    try:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:  # there is no way from this mode to RGB
        raise ImageError("unsupported", str(error)) from None


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    high_bytes = np.clip(values >> 8, 0, 255).astype(np.uint8)
    high_bytes[values == image.info.get("transparency", -1)] = 255  # tRNS: this gray level is transparent
    return Image.fromarray(high_bytes).convert("RGB")
