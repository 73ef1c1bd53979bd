"""Picture files made on the spot: by Pillow, or byte by byte where an encoder would refuse.

Everything is small and without symmetry, so that a wrong turn, swap or shift shows.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    "PNG_SIGNATURE",
    "bmp",
    "encoded",
    "flat_jpeg",
    "gif",
    "gradient",
    "jpeg_segment",
    "png",
    "png_chunk",
    "png_chunks",
    "tiff",
    "translucent",
]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """Return a picture (H, W, 3) uint8, smooth enough for JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * x, 6 * y, 255 - 2 * x - 3 * y], axis=2).clip(0, 255).astype(np.uint8)


def translucent(height: int = 40, width: int = 60) -> Image.Image:
    """Return `gradient` in RGBA, opaque at the left and transparent at the right."""
    image = Image.fromarray(gradient(height, width))
    alpha = np.broadcast_to(np.linspace(255, 0, width).round().astype(np.uint8), (height, width))
    image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Return *picture* as a file of Pillow's format *kind*."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each chunk of a sound PNG."""
    at = len(PNG_SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def png(
    width: int,
    height: int,
    scanlines: bytes,
    *,
    depth: int = 8,
    color: int = 2,
    interlace: int = 0,
    before: bytes = b"",
    stream: bytes | None = None,
) -> bytes:
    """Return a PNG of *scanlines* (each with its filter type), or of the zlib *stream*.

    Args:
        width: In pixels.
        height: In pixels.
        scanlines: Not compressed.
        depth: Bits a sample.
        color: Colour type: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha.
        interlace: 1: Adam7.
        before: Chunks between header and pixels.
        stream: What stands in IDAT instead of the compressed *scanlines*.
    """
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))
    pixels = png_chunk(b"IDAT", zlib.compress(scanlines) if stream is None else stream)
    return PNG_SIGNATURE + header + before + pixels + png_chunk(b"IEND", b"")


def jpeg_segment(kind: int, body: bytes) -> bytes:
    """Return a JPEG marker segment with its length."""
    return bytes((0xFF, kind)) + struct.pack(">H", len(body) + 2) + body


def flat_jpeg(
    factors: Sequence[tuple[int, int]] = ((1, 1), (1, 1), (1, 1)),
    *,
    width: int = 64,
    height: int = 48,
    head: bytes = jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
    sof: int = 0xC0,
    precision: int = 8,
) -> bytes:
    """Return a JPEG of one colour, with any sampling: of what encoders never write.

    Args:
        factors: (horizontal, vertical) sampling factor of each component.
        width: In pixels.
        height: In pixels.
        head: Segments behind SOI.
        sof: Marker of the frame header.
        precision: Bits a sample that the frame header states.
    """
    tables = _jpeg_tables()
    components = b"".join(bytes((n + 1, h << 4 | v, int(0 < n < 3))) for n, (h, v) in enumerate(factors))
    frame = struct.pack(">BHHB", precision, height, width, len(factors)) + components
    scan = b"".join(bytes((n + 1, 0x11 if 0 < n < 3 else 0)) for n in range(len(factors)))
    return (
        b"\xff\xd8"
        + head
        + tables
        + jpeg_segment(sof, frame)
        + jpeg_segment(0xDA, bytes((len(factors),)) + scan + b"\0\x3f\0")
        + _flat_scan(factors, width, height)
        + b"\xff\xd9"
    )


def _jpeg_tables() -> bytes:
    """Return Pillow's DQT and DHT segments: the tables of annex K."""
    data = encoded(Image.new("RGB", (16, 16)), "JPEG")
    at, found = 2, b""
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found += data[at:end] if data[at + 1] in {0xDB, 0xC4} else b""
        at = end
    return found


def _flat_scan(factors: Sequence[tuple[int, int]], width: int, height: int) -> bytes:
    """Return one value per component, Huffman coded: a DC difference of 8 in the first block, none in the others."""
    across, down = (1, 1) if len(factors) == 1 else (max(h for h, _ in factors), max(v for _, v in factors))
    blocks = [1] if len(factors) == 1 else [h * v for h, v in factors]
    bits, first = [], set(range(len(factors)))
    for _ in range(-(-width // (8 * across)) * -(-height // (8 * down))):
        for component, count in enumerate(blocks):
            chroma = 0 < component < 3
            for _ in range(count):
                bits.append(("1110" if chroma else "101") + "1000" if component in first else "00")
                bits.append("00" if chroma else "1010")  # end of block
                first.discard(component)
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")


def gif(codes: bytes, *, width: int = 16, height: int = 16, bits: int = 2) -> bytes:
    """Return a GIF of one frame with four colours and the LZW sub-blocks *codes*."""
    screen = struct.pack("<HHBBB", width, height, 0x81, 0, 0) + bytes(range(10, 22))
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + bytes((bits,)) + codes + b"\0;"


def bmp(width: int, height: int, pixels: bytes, *, bits: int = 24, compression: int = 0, palette: bytes = b"") -> bytes:
    """Return a BMP with a 40-byte header."""
    offset = 54 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + palette + pixels


def tiff(body: bytes, tags: Mapping[int, Sequence[int]], *, size: tuple[int, int] = (16, 16)) -> bytes:
    """Return a gray 8-bit TIFF, little-endian, of (width, height) *size* and with *body* behind the tags.

    Args:
        body: The strips.
        tags: LONG values by tag, more than or instead of the usual ones; none: the tag is left out. Those of
            StripOffsets (273) and TileOffsets (324) count from where *body* begins.
        size: (width, height) in pixels.
    """
    usual = {256: [size[0]], 257: [size[1]], 258: [8], 259: [1], 262: [1], 277: [1], 278: [size[1]], 279: [len(body)]}
    entries = {tag: list(values) for tag, values in sorted({**usual, 273: [0], **tags}.items()) if values}
    behind = 8 + 2 + 12 * len(entries) + 4
    extra = sum(4 * len(values) for values in entries.values() if len(values) > 1)
    for tag in (273, 324):
        if tag in entries:
            entries[tag] = [behind + extra + value for value in entries[tag]]
    directory, values_behind = b"", b""
    for tag, values in entries.items():
        packed = struct.pack(f"<{len(values)}I", *values)
        where = packed if len(values) == 1 else struct.pack("<I", behind + len(values_behind))
        values_behind += packed if len(values) > 1 else b""
        directory += struct.pack("<HHI", tag, 4, len(values)) + where
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + values_behind + body
