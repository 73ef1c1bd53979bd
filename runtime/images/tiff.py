"""TIFF: every strip and tile in the file, before Pillow (with libtiff) decodes the first page.

Rules:
    * There must be as many strips or tiles as the picture needs, each within the file: Pillow leaves those
      black that are not listed, and takes the file's header for pixels where an offset is 0.
    * Compressed data is checked by libtiff, except JPEG, of which it lets damage pass: that is checked here.
    * Tiles are bounded like the picture: their size is the file's word.
    * The orientation is Pillow's to apply: it does so when it loads a TIFF.

Source of the tags: TIFF 6.0, and its Technical Note 2 for JPEG.
"""

from __future__ import annotations

from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Encoded, check_size, read_header
from runtime.images.jpeg import damage_in

__all__ = ["open_tiff"]

WIDTH, HEIGHT, COMPRESSION, SAMPLES, PLANAR = 256, 257, 259, 277, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_COUNTS = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
JPEG_TABLES = 347

JPEG = 7  # a value of COMPRESSION
SEPARATE = 2  # a value of PLANAR: the channels one after the other
FIRST_OFFSET = 8  # bytes of the header, before which nothing can lie


def open_tiff(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the TIFF *data*, and check that its pixels are there.

    Raises:
        ImageError: It is too large, or strips or tiles are missing or damaged.
    """
    image = read_header(TiffImageFile, data, options)
    pieces = _pieces(image, len(data), options)
    if image.tag_v2.get(COMPRESSION) == JPEG:
        _check_jpeg(image, data, pieces)
    return Encoded(data=data, image=image, options=options)


def _pieces(image: TiffImageFile, length: int, options: DecodeOptions) -> list[tuple[int, int]]:
    """Return (offset, bytes) of each strip or tile that the picture needs, in a file of *length* bytes.

    Raises:
        ImageError: There are too few, or one lies outside of the file.
    """
    (width,), (height,) = _numbers(image, WIDTH), _numbers(image, HEIGHT)
    if STRIP_OFFSETS in image.tag_v2:  # Pillow, too, looks for these first
        across, down, offsets, counts = width, _numbers(image, ROWS_PER_STRIP, height)[0], STRIP_OFFSETS, STRIP_COUNTS
    else:
        across, down, offsets, counts = (
            *_numbers(image, TILE_WIDTH),
            *_numbers(image, TILE_HEIGHT),
            TILE_OFFSETS,
            TILE_COUNTS,
        )
        check_size(across, down, options)
    if across < 1 or down < 1:
        raise ImageError("truncated", f"TIFF in pieces of {across}x{down} pixels")
    planes = _numbers(image, SAMPLES, 1)[0] if image.tag_v2.get(PLANAR) == SEPARATE else 1
    needed = -(-width // across) * -(-height // down) * planes
    found = _numbers(image, offsets)[:needed]
    if len(found) < needed:
        raise ImageError("truncated", f"TIFF with {len(found)} of {needed} strips or tiles")
    outside = [offset for offset in found if not FIRST_OFFSET <= offset < length]
    if outside:
        raise ImageError("truncated", f"TIFF with a strip or tile at byte {outside[0]} of {length}")
    return list(zip(found, _numbers(image, counts, 0), strict=False))


def _check_jpeg(image: TiffImageFile, data: bytes, pieces: list[tuple[int, int]]) -> None:
    tables = image.tag_v2.get(JPEG_TABLES, b"")
    for offset, size in pieces:
        piece = data[offset : offset + size]
        if complaint := damage_in(tables[:-2] + piece[2:] if tables else piece, image.mode):  # without EOI, SOI
            raise ImageError("truncated", f"TIFF with a damaged JPEG at byte {offset}: {complaint}")


def _numbers(image: TiffImageFile, tag: int, default: int | None = None) -> tuple[int, ...]:
    """Return the values of *tag*, or *default*.

    Raises:
        ImageError: There are none, or they are no whole numbers.
    """
    found = image.tag_v2.get(tag, default)
    values = found if isinstance(found, tuple) else (found,)
    if not values or not all(isinstance(value, int) for value in values):
        raise ImageError("truncated", f"TIFF whose {TAGS_V2[tag].name} is {values[:4]}")
    return values
