"""What is mutated: small sound files of every format in many forms, and the difficult images where they are."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from picture_files import encoded, flat_jpeg, gradient, jpeg_segment, png, png_chunk, tiff, translucent
from PIL import Image

__all__ = ["seeds"]

TEST_DATA = Path(os.environ.get("VEDETTE_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
SUFFIXES = frozenset({".bmp", ".jpg", ".png"})
LARGEST = 20_000  # bytes of a difficult image; what is larger is mostly pixels, and slow


def seeds() -> list[bytes]:
    """Return the files to mutate, in an order that does not change."""
    difficult = sorted(path for path in (TEST_DATA / "images" / "difficult").rglob("*") if path.suffix in SUFFIXES)
    more = [path.read_bytes() for path in difficult if path.stat().st_size <= LARGEST]
    return [*_jpegs(), *_pngs(), *_webps(), *_others(), *more]


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _jpegs() -> Iterator[bytes]:
    small, gray = gradient(24, 33), Image.fromarray(gradient(24, 33)).convert("L")
    yield encoded(small, "JPEG")
    yield encoded(small, "JPEG", progressive=True)
    yield encoded(small, "JPEG", subsampling=0, exif=_turned(), comment=b"fuzz")
    yield encoded(small, "JPEG", restart_marker_rows=1)
    yield encoded(gray, "JPEG")
    yield encoded(gray, "JPEG", progressive=True)
    yield encoded(Image.fromarray(small).convert("CMYK"), "JPEG")
    yield encoded(Image.fromarray(small).convert("CMYK"), "JPEG", progressive=True)
    yield flat_jpeg(((3, 1), (1, 1), (1, 1)))  # unusual sampling: not for simplejpeg
    yield flat_jpeg(((2, 2), (1, 1), (1, 1), (2, 2)), head=jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\2"))  # YCCK


def _pngs() -> Iterator[bytes]:
    small = Image.fromarray(gradient(12, 17))
    sixteen = (np.arange(12 * 17, dtype=np.uint16) * 321).reshape(12, 17)
    yield encoded(small, "PNG")
    yield encoded(small, "PNG", exif=_turned())
    yield encoded(small.convert("L"), "PNG")
    yield encoded(small.convert("1"), "PNG")
    yield encoded(small.convert("P"), "PNG", transparency=3)
    yield encoded(small.quantize(4), "PNG", bits=2)
    yield encoded(translucent(12, 17), "PNG")
    yield encoded(translucent(12, 17).convert("LA"), "PNG")
    yield encoded(sixteen, "PNG")
    yield encoded(small, "PNG", save_all=True, append_images=[small.rotate(180)])
    yield png(8, 8, (b"\2" + bytes(range(24))) * 8, before=png_chunk(b"tRNS", struct.pack(">HHH", 0, 1, 2)))
    yield png(8, 8, (b"\4" + bytes(range(64))) * 8, depth=16, color=6)
    yield png(8, 8, bytes(8 * 6 + 15 + 64 * 3), interlace=1)  # Adam7: 15 rows in all


def _webps() -> Iterator[bytes]:
    small = Image.fromarray(gradient(12, 17))
    yield encoded(small, "WEBP")
    yield encoded(small, "WEBP", lossless=True)
    yield encoded(small, "WEBP", exif=_turned())
    yield encoded(translucent(12, 17), "WEBP")
    yield encoded(translucent(12, 17), "WEBP", lossless=True)
    yield encoded(small, "WEBP", save_all=True, append_images=[small.rotate(180)])


def _others() -> Iterator[bytes]:
    small = Image.fromarray(gradient(12, 17))
    palette, gray, bits = small.convert("P"), small.convert("L"), small.convert("1")
    for image in (small, palette, gray, bits, translucent(12, 17)):
        yield encoded(image, "BMP")
    for image in (palette, gray, small):
        yield encoded(image, "GIF", transparency=1)
    yield encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)])
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield encoded(small, "TIFF", compression=compression)
    yield encoded(bits, "TIFF", compression="group4")
    yield encoded(small.convert("CMYK"), "TIFF")
    yield encoded(translucent(12, 17), "TIFF", compression="tiff_lzw")
    yield encoded(small, "TIFF", big_tiff=True)
    sixteen = np.arange(12 * 17).reshape(12, 17) * 321
    yield encoded(sixteen.astype("<u2"), "TIFF")
    yield encoded(sixteen.astype(">u2"), "TIFF")  # the file, too, is big-endian
    yield tiff(bytes(range(256)), {322: [16], 323: [8], 324: [0, 128], 325: [128, 128], 273: [], 278: [], 279: []})
