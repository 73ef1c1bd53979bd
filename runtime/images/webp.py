"""WebP: the size is read before the codec, which allocates memory for it.

Pillow alone decodes it: OpenCV takes what libwebp could make of a damaged file for the whole picture.

Source of the offsets: RFC 9649, 2.5 to 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from PIL.WebPImagePlugin import WebPImageFile

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Encoded, check_size, read_header
from runtime.images.orientation import orientation_of

__all__ = ["open_webp"]

HEADER = 30  # bytes that hold every variant's size


def _lossy(head: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _lossless(head: bytes) -> tuple[int, int]:
    bits = int.from_bytes(head[21:25], "little")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)


def _extended(head: bytes) -> tuple[int, int]:
    return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")


SIZES: Mapping[bytes, Callable[[bytes], tuple[int, int]]] = {b"VP8 ": _lossy, b"VP8L": _lossless, b"VP8X": _extended}


def open_webp(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the WebP *data*.

    Raises:
        ImageError: It is too large, or ends within its header.
    """
    size = SIZES.get(data[12:16])
    if size is None:
        raise ImageError("truncated", f"WebP of {len(data)} bytes with first chunk {data[12:16]!r}")
    check_size(*size(data[:HEADER].ljust(HEADER, b"\0")), options)
    image = read_header(WebPImageFile, data, options)
    return Encoded(data=data, image=image, options=options, orientation=orientation_of(image))
