"""BMP: all rows, or nothing.

Rules:
    * Uncompressed pixels must all be in the file. (Pillow itself refuses run-length coded ones that end early.)
    * OpenCV reads colour of 24 and gray of 8 bits, behind a header written here: it and Pillow read unusual
      headers differently, and OpenCV prints what it thinks of them. The rest is for Pillow.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from PIL.BmpImagePlugin import BmpImageFile

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Encoded, Raster, read_header
from runtime.images.opencv import with_opencv

__all__ = ["open_bmp", "with_opencv_if_plain"]

HEADERS = 14 + 40  # bytes: BITMAPFILEHEADER, BITMAPINFOHEADER
GRAYS = bytes(level for gray in range(256) for level in (gray, gray, gray, 0))  # a palette of BGRX

# By Pillow's raw mode: bits a pixel, palette.
PLAIN: Mapping[str, tuple[int, bytes]] = {"BGR": (24, b""), "L": (8, GRAYS)}


def open_bmp(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the BMP *data*.

    Raises:
        ImageError: It is too large, or pixels are missing.
    """
    image = read_header(BmpImageFile, data, options)
    codec, _, offset, arguments = image.tile[0]
    if codec == "raw" and isinstance(arguments, tuple):
        _, stride, _ = arguments
        if (missing := offset + stride * image.height - len(data)) > 0:
            raise ImageError("truncated", f"BMP: {missing} bytes of pixels are missing")
    return Encoded(data=data, image=image, options=options)


def with_opencv_if_plain(encoded: Encoded) -> Raster | None:
    """Return what OpenCV makes of uncompressed colour of 24 or gray of 8 bits; ``None`` if it is neither."""
    codec, _, offset, arguments = encoded.image.tile[0]
    if codec != "raw" or not isinstance(arguments, tuple) or arguments[0] not in PLAIN:
        return None
    mode, stride, direction = arguments
    bits, palette = PLAIN[mode]
    height, width = encoded.size
    if stride != (width * bits + 31) // 32 * 4:  # gray of 4 bits: Pillow has no raw mode of its own for it
        return None
    start, length = HEADERS + len(palette), stride * height
    file = struct.pack("<2sIHHI", b"BM", start + length, 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, -direction * height, 1, bits, 0, length, 0, 0, len(palette) // 4, 0)
    return with_opencv(encoded, b"".join((file, info, palette, encoded.data[offset : offset + length])))
