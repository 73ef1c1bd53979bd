"""JPEG: simplejpeg (libjpeg-turbo), strictly, with Pillow behind it.

Rules:
    * A JPEG whose compressed data is damaged is refused, although libjpeg would paint the rest of it gray.
    * libjpeg-turbo reports only the first thing that it finds odd, and harmless oddities are common
      (stray bytes between segments, a made-up JFIF version). Such a file is rewritten without them and
      decoded again, so that damage further on does not hide behind them.
    * What simplejpeg does not read at all (unusual chroma subsampling) goes to Pillow. Never to OpenCV: that
      prints libjpeg's warnings on stderr and tells its caller nothing of them.
    * Scans are bounded: each passes over the whole picture, however few bytes it has. So are pixels by the
      bytes that they need at least: a header alone is no reason to allocate memory.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Encoded, Pixels, Raster, read_header
from runtime.images.color import from_pillow
from runtime.images.orientation import orientation_of

__all__ = ["damage_in", "is_clean", "mended", "open_jpeg", "with_pillow", "with_simplejpeg"]

# libjpeg-turbo's words (jerror.h) for compressed data that is not what the encoder wrote, ...
DAMAGED = re.compile("premature end|bad Huffman code|bad arithmetic code|instead of RST", re.IGNORECASE)
# ... and for what costs nothing, and `mended` removes.
HARMLESS = re.compile("extraneous bytes|unknown JFIF revision|unknown Adobe color transform", re.IGNORECASE)

COLORSPACES = {"CMYK": "CMYK"}  # by Pillow's mode: what simplejpeg is asked for, if not RGB

# Of an Adobe segment that says neither this nor 0 (libjpeg-turbo, jdapimin.c): YCbCr, YCCK.
ASSUMED_TRANSFORM = {"RGB": b"\1", "L": b"\1", "CMYK": b"\2"}

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
APP0, APP14, SOS = 0xE0, 0xEE, 0xDA
DROPPED = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # APP1-13, APP15, COM: nothing that pixels depend on
BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RST0-7, SOI: markers without a segment
MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # T.81, B.1.1.2: any number of fill bytes before it
END_OF_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # FF00 is a data byte, RST0-7 belong to the scan

MAX_SCANS = 64  # encoders write about ten
MAX_SCANNED_PIXELS = 64_000_000  # times scans; beyond MAX_SCANS

# A block of 8x8 samples takes a bit at least, if it is Huffman coded, and there are half as many blocks as
# pixels / 64 at least (one channel of every fourth column, one of every fourth row).
PIXELS_A_BYTE = 8 * 64 * 2
ARITHMETIC = re.compile(rb"\xff[\xc9\xca\xcb]")

FILL = 128  # what libjpeg makes of coefficients that it never saw
ONE_MCU = 18 * 18  # pixels: the largest usual MCU, 16x16, and what the upsampling of its chroma touches


def open_jpeg(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the JPEG *data*.

    Raises:
        ImageError: It is too large, or decoding it would take unduly long.
    """
    image = read_header(JpegImageFile, data, options)
    pixels = image.width * image.height
    scans = data.count(b"\xff\xda") if image.info.get("progressive") else 1
    if scans > MAX_SCANS and scans * pixels > MAX_SCANNED_PIXELS:
        raise ImageError("too_large", f"{scans} scans of {image.width}x{image.height} pixels")
    if pixels > len(data) * PIXELS_A_BYTE and not options.allow_truncated and not ARITHMETIC.search(data):
        raise ImageError("truncated", f"{len(data)} bytes cannot hold {image.width}x{image.height} pixels")
    return Encoded(data=data, image=image, options=options, orientation=orientation_of(image))


def with_simplejpeg(encoded: Encoded) -> Raster | None:
    """Return what simplejpeg makes of it; ``None`` if it does not read such a JPEG.

    Raises:
        ImageError: ``truncated``: its data is damaged, and that is not allowed or nothing came before the damage.
    """
    data, mode = encoded.data, encoded.image.mode
    try:
        return Raster(_rgb(_decoded(data, mode)))
    except ValueError as error:
        complaint = str(error)
    if HARMLESS.search(complaint):
        data = mended(data, mode)
        try:
            return Raster(_rgb(_decoded(data, mode)))
        except ValueError as error:
            complaint = str(error)
    if not DAMAGED.search(complaint):
        return None
    if not encoded.options.allow_truncated:
        raise ImageError("truncated", complaint)
    return _what_is_there(data, mode, complaint)


def with_pillow(encoded: Encoded) -> Raster:
    """Return what Pillow makes of it.

    Raises:
        ImageError: ``unsupported``: no decoder reads such a JPEG.
        Exception: Whatever Pillow raises for broken data; see `base.explained`.
    """
    try:
        return Raster(from_pillow(encoded.image, encoded.options))
    except OSError as error:
        if not (encoded.options.allow_truncated and "truncated" in str(error)):
            raise
        with JpegImageFile(io.BytesIO(encoded.data + EOI)) as ended:
            pixels = from_pillow(ended, encoded.options)
            if _nothing_came(pixels):
                raise
            return Raster(pixels, truncated=True)


def damage_in(data: bytes, mode: str) -> str | None:
    """Return what is damaged in the JPEG *data*, of Pillow's *mode*; ``None`` if nothing is, or nobody can tell."""
    complaint = _complaint(data, mode)
    return complaint if complaint and DAMAGED.search(complaint) else None


def is_clean(data: bytes, mode: str) -> bool:
    """Whether libjpeg finds nothing odd in the JPEG *data*, of Pillow's *mode*: neither damage nor what may hide it."""
    return _complaint(data, mode) is None


def _complaint(data: bytes, mode: str) -> str | None:
    try:  # at an eighth of its size, which spares all work but the reading of the compressed data
        simplejpeg.decode_jpeg(data, colorspace=COLORSPACES.get(mode, "GRAY"), min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return str(error)
    return None


def mended(data: bytes, mode: str) -> bytes:
    """Return the JPEG *data* without what decoders only grumble about; the compressed data stays as it is.

    Dropped are metadata and stray bytes between segments. A JFIF version that is not known becomes 1.1,
    a colour transform that is not known the one that libjpeg would assume. A file that ends early
    ends early still.

    Args:
        data: The file.
        mode: Pillow's name for its channels.
    """
    return SOI + b"".join(_essentials(data, mode))


def _essentials(data: bytes, mode: str) -> Iterator[bytes]:
    at = len(SOI)
    while found := MARKER.search(data, at):
        kind, at = found[1][0], found.end()
        if kind == EOI[1]:
            yield EOI
            return
        if kind in BARE:
            continue
        end = at + int.from_bytes(data[at : at + 2])
        if kind == SOS:
            following = END_OF_SCAN.search(data, end)
            end = following.start() if following else len(data)
        if kind not in DROPPED:
            yield bytes((0xFF, kind)) + _with_known_values(kind, data[at:end], mode)
        at = end


def _with_known_values(kind: int, segment: bytes, mode: str) -> bytes:
    """Return *segment* (length and content) so that libjpeg finds nothing odd in it."""
    if kind == APP0 and segment[2:7] == b"JFIF\0" and len(segment) > 9:
        return segment[:7] + b"\1\1" + segment[9:]
    if kind == APP14 and segment[2:7] == b"Adobe" and len(segment) > 13 and segment[13]:
        return segment[:13] + ASSUMED_TRANSFORM[mode] + segment[14:]
    return segment


def _decoded(data: bytes, mode: str, *, strict: bool = True) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(
        data, colorspace=COLORSPACES.get(mode, "RGB"), fastdct=False, fastupsample=False, strict=strict
    )
    return pixels


def _rgb(pixels: Pixels) -> Pixels:
    """Return *pixels*, RGB or CMYK, in RGB; all CMYK is taken for Adobe's, which is inverted, as Pillow does."""
    if pixels.shape[2] == 3:
        return pixels
    height, width = pixels.shape[:2]
    cmyk = Image.frombytes("CMYK", (width, height), pixels.tobytes(), "raw", "CMYK;I")
    return np.asarray(cmyk.convert("RGB"))


def _what_is_there(data: bytes, mode: str, complaint: str) -> Raster:
    try:
        pixels = _decoded(data, mode, strict=False)
    except ValueError as error:
        raise ImageError("truncated", str(error)) from None
    if _nothing_came(pixels):
        raise ImageError("truncated", f"{complaint}, before any of the picture")
    return Raster(_rgb(pixels), truncated=True)


def _nothing_came(pixels: Pixels) -> bool:
    return int((pixels != FILL).any(axis=2).sum()) <= ONE_MCU
