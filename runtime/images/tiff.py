"""TIFF: every strip and tile in the file, before Pillow (with libtiff) decodes the first page.

Rules:
    * There must be as many strips or tiles as the picture needs, each within the file: Pillow leaves those
      black that are not listed, and takes the file's header for pixels where an offset is 0.
    * Of JPEG and deflate, libtiff lets damage pass: they are decoded here once more, to see that they are whole.
      LZW and run lengths carry no checksum: what they decode to counts.
    * Tiles are bounded like the picture: their size is the file's word.
    * The orientation is Pillow's to apply: it does so when it loads a TIFF.

Source of the tags: TIFF 6.0, and its Technical Note 2 for JPEG.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

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

SEPARATE = 2  # a value of PLANAR: the channels one after the other
FIRST_OFFSET = 8  # bytes of the header, before which nothing can lie
LARGEST_PIXEL = 8  # bytes: four channels of 16 bits
INFLATED = 1 << 18  # bytes at a time


def open_tiff(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the TIFF *data*, and check that its pixels are there.

    Raises:
        ImageError: It is too large, or strips or tiles are missing or damaged.
    """
    image = read_header(TiffImageFile, data, options)
    pieces = _pieces(image, len(data), options)
    if damage_of := DAMAGE.get(image.tag_v2.get(COMPRESSION, 1)):
        for offset, size in pieces:
            if complaint := damage_of(image, data[offset : offset + size]):
                raise ImageError("truncated", f"TIFF with a damaged strip or tile at byte {offset}: {complaint}")
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


def _jpeg_damage(image: TiffImageFile, piece: bytes) -> str | None:
    tables = image.tag_v2.get(JPEG_TABLES, b"")
    return damage_in(tables[:-2] + piece[2:] if tables else piece, image.mode)  # without EOI, without SOI


def _deflate_damage(image: TiffImageFile, piece: bytes) -> str | None:
    inflater = zlib.decompressobj()
    found, enough = 0, LARGEST_PIXEL * image.width * image.height
    try:
        while piece and found <= enough:  # no further: the rest is nothing that the picture needs
            found += len(inflater.decompress(piece, INFLATED))
            piece = inflater.unconsumed_tail
    except zlib.error as error:
        return str(error)
    return None if inflater.eof or piece else f"{found} bytes, and no end of them"


# By the tag's value: JPEG, and deflate under its two numbers.
DAMAGE: Mapping[int, Callable[[TiffImageFile, bytes], str | None]] = {
    7: _jpeg_damage,
    8: _deflate_damage,
    32946: _deflate_damage,
}


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
