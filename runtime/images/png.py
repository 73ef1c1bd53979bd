"""PNG: checked to the last row before a decoder sees it.

Rules:
    * Chunks that pixels depend on must have the checksum that they say; Pillow's decoder skips those of
      the pixels.
    * The scanlines are inflated here, never further than the header says, and must be there to the last one:
      Pillow leaves a picture black from where its data ends. What is inflated goes on to the decoder in
      *stored* form, so that nothing is inflated twice.
    * Decoders see header, palette and pixels alone: no gamma, profile, animation or text, on which they would
      disagree, or which they would comment on stderr.
    * A transparent colour (tRNS of gray and RGB) is compared in the depth that the file has. (Pillow compares
      the low byte of 16, and does not scale that of 2 and 4 bits.)
    * Of a picture that ends early, if allowed, whole rows count. Not so if it is interlaced: it has none.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Encoded, check_size, read_header
from runtime.images.orientation import orientation_of

__all__ = ["open_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG 3rd edition, 11.2.1: colour types
CHANNELS: Mapping[int, int] = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
DEPTHS: Mapping[int, Sequence[int]] = {  # bits a sample, by colour type
    GRAY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GRAY_ALPHA: (8, 16),
    RGB_ALPHA: (8, 16),
}
CHECKED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})  # what pixels depend on
LAST_FILTER = 4  # 9.2: None, Sub, Up, Average, Paeth

# 8.1: first column and row, and steps, of the seven passes of an interlaced picture.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

MAX_STORED = 1 << 26  # bytes of scanlines that are kept; those of a larger picture are inflated twice
PIECE = 1 << 12  # compressed bytes inflated at a time: what an error loses
UNKEPT = 1 << 18  # inflated bytes at a time where they are not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The IHDR chunk."""

    width: int
    height: int
    depth: int  # bits a sample
    color: int
    interlaced: bool

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read the header of the PNG *data*.

        Raises:
            ImageError: ``truncated``: it is cut or damaged.
        """
        if not data.startswith(SIGNATURE):
            raise ImageError("truncated", f"PNG with a damaged signature: {data[:8]!r}")
        if len(data) < len(SIGNATURE) + 8 + 13 or data[12:16] != b"IHDR":
            raise ImageError("truncated", f"PNG of {len(data)} bytes, without header (no IHDR chunk)")
        width, height, depth, color, _, _, interlace = struct.unpack_from(">IIBBBBB", data, len(SIGNATURE) + 8)
        if depth not in DEPTHS.get(color, ()):
            raise ImageError("truncated", f"PNG of colour type {color} with {depth} bits: there is no such thing")
        return cls(width=width, height=height, depth=depth, color=color, interlaced=bool(interlace))

    def pack(self) -> bytes:
        """Return the chunk's body."""
        return struct.pack(">IIBBBBB", self.width, self.height, self.depth, self.color, 0, 0, self.interlaced)

    @property
    def passes(self) -> list[tuple[int, int]]:
        """(rows, bytes a row with its filter type) of each pass over the picture; one if not interlaced."""
        steps: Sequence[tuple[int, int, int, int]] = ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        bits = self.depth * CHANNELS[self.color]
        sizes = [
            (-((left - self.width) // across), -((top - self.height) // down)) for left, top, across, down in steps
        ]
        return [(rows, 1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """The chunks that count, by what they are for."""

    palette: bytes
    transparency: bytes | None
    exif: bytes | None
    compressed: bytes  # the scanlines


def open_png(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the PNG *data*, check its chunks and scanlines, and rewrite it for the decoders.

    Raises:
        ImageError: It is too large, damaged, or ends early (and that is not allowed).
    """
    header = Header.parse(data)
    check_size(header.width, header.height, options)
    image = read_header(PngImageFile, data, options)
    chunks = _read_chunks(data, palette=header.color == PALETTE, lenient=options.allow_truncated)
    stream, rows = _checked_stream(chunks.compressed, header, options)
    plain = _assembled(header, chunks, stream)
    if chunks.exif and "exif" not in image.info:  # it may stand behind the pixels
        image.info["exif"] = b"Exif\0\0" + chunks.exif
    return Encoded(
        data=plain,
        image=read_header(PngImageFile, plain, options),
        options=options,
        orientation=orientation_of(image),
        key=_key(header, chunks.transparency),
        rows=rows,
    )


def _read_chunks(data: bytes, *, palette: bool, lenient: bool) -> Chunks:
    found: dict[bytes, bytes] = {}  # of a chunk that comes twice the last counts, as with Pillow
    compressed = []
    for kind, body in _chunks(data, lenient=lenient):
        if kind == b"IDAT":
            compressed.append(body)
        elif kind == b"IHDR" and kind in found:
            raise ImageError("truncated", "PNG with two headers")
        elif not compressed or kind not in CHECKED:  # palette and transparency behind the pixels are none
            found[kind] = body
    if not compressed:
        raise ImageError("truncated", "PNG without pixels (no IDAT chunk)")
    if palette and b"PLTE" not in found:
        raise ImageError("truncated", "PNG of palette colours without palette (no PLTE chunk)")
    return Chunks(
        palette=found.get(b"PLTE", b""),
        transparency=found.get(b"tRNS"),
        exif=found.get(b"eXIf"),
        compressed=b"".join(compressed),
    )


def _chunks(data: bytes, *, lenient: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each chunk.

    Raises:
        ImageError: Not *lenient*: a chunk that pixels depend on ends early, or is damaged.
    """
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if kind in CHECKED and not lenient:
            if len(checksum) < 4:
                raise ImageError("truncated", f"PNG ends within its chunk {kind!r}")
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum):
                raise ImageError("truncated", f"PNG with a wrong checksum in its chunk {kind!r}")
        yield kind, body
        if kind == b"IEND":
            return
        at += 12 + length


def _checked_stream(compressed: bytes, header: Header, options: DecodeOptions) -> tuple[bytes, int | None]:
    """Return a zlib stream that surely holds every scanline, and how many rows are real (``None``: all)."""
    length = sum(rows * stride for rows, stride in header.passes)
    if length > MAX_STORED and not header.interlaced and not options.allow_truncated:
        _check_unkept(compressed, header.passes[0][1], length)
        return compressed, None
    scanlines, complaint = _inflated(compressed, length)
    if complaint is None and (filters := _worst_filter(scanlines, header)) > LAST_FILTER:
        complaint = f"filter type {filters}"
    if complaint is None:
        return zlib.compress(scanlines, 0), None
    if not options.allow_truncated:
        raise ImageError("truncated", f"PNG: {complaint}")
    rows = _whole_rows(scanlines, header)
    if not rows:
        raise ImageError("truncated", f"PNG: {complaint}, before any row was whole")
    (_, stride), *_ = header.passes
    return zlib.compress(scanlines[: rows * stride].ljust(length, b"\0"), 0), rows


def _inflated(compressed: bytes, length: int) -> tuple[bytes, str | None]:
    """Return at most *length* inflated bytes, and what is wrong with them."""
    inflater = zlib.decompressobj()
    try:
        scanlines = inflater.decompress(compressed, length + 1)  # the one more makes zlib read its checksum
    except zlib.error as error:
        return _inflated_until_error(compressed, length), str(error)
    if len(scanlines) < length or (len(scanlines) == length and not inflater.eof):
        return scanlines, f"{len(scanlines)} of {length} bytes of pixels, and no end of them"
    return scanlines[:length], None


def _inflated_until_error(compressed: bytes, length: int) -> bytes:
    inflater = zlib.decompressobj()
    scanlines = bytearray()
    with contextlib.suppress(zlib.error):
        for at in range(0, len(compressed), PIECE):  # in pieces: a call that fails gives nothing
            scanlines += inflater.decompress(compressed[at : at + PIECE], length + 1 - len(scanlines))
            if len(scanlines) > length:
                break
    return bytes(scanlines[:length])


def _check_unkept(compressed: bytes, stride: int, length: int) -> None:
    """Raise unless *compressed* holds *length* bytes of scanlines, *stride* bytes each; in little memory."""
    inflater = zlib.decompressobj()
    found = 0
    for at in range(0, len(compressed), PIECE):
        tail = compressed[at : at + PIECE]
        while tail and found <= length:
            piece = inflater.decompress(tail, UNKEPT)
            filters = np.frombuffer(piece, np.uint8)[-found % stride :: stride]
            if filters.size and int(filters.max()) > LAST_FILTER and found + len(piece) <= length:
                raise ImageError("truncated", f"PNG: filter type {int(filters.max())}")
            found += len(piece)
            tail = inflater.unconsumed_tail
    if found < length:
        raise ImageError("truncated", f"PNG: {found} of {length} bytes of pixels, and no end of them")


def _worst_filter(scanlines: bytes, header: Header) -> int:
    """Return the largest filter type; each scanline begins with one."""
    worst, at = 0, 0
    for rows, stride in header.passes:
        filters = np.frombuffer(scanlines, np.uint8, rows * stride, at)[::stride]
        worst, at = max(worst, int(filters.max())), at + rows * stride
    return worst


def _whole_rows(scanlines: bytes, header: Header) -> int:
    if header.interlaced:
        return 0
    ((_, stride),) = header.passes
    rows = len(scanlines) // stride
    filters = np.frombuffer(scanlines, np.uint8, rows * stride)[::stride]
    odd = np.flatnonzero(filters > LAST_FILTER)
    return int(odd[0]) if odd.size else rows


def _assembled(header: Header, chunks: Chunks, stream: bytes) -> bytes:
    parts = [(b"IHDR", header.pack()), (b"IDAT", stream), (b"IEND", b"")]
    if header.color == PALETTE:
        parts[1:1] = [(b"PLTE", chunks.palette)]
        if chunks.transparency is not None:
            parts[2:2] = [(b"tRNS", chunks.transparency)]
    return b"".join((SIGNATURE, *(piece for kind, body in parts for piece in _chunk(kind, body))))


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _key(header: Header, transparency: bytes | None) -> tuple[int, ...] | None:
    """Return the transparent colour of a gray or RGB picture in the depth of its decoded samples, 8 or 16 bits."""
    channels = CHANNELS[header.color]
    if transparency is None or header.color not in {GRAY, RGB} or len(transparency) < 2 * channels:
        return None
    levels = (1 << header.depth) - 1  # 11.3.1.1: the bits above are to be ignored
    values = tuple(value & levels for value in struct.unpack_from(f">{channels}H", transparency))
    return tuple(value * 255 // levels for value in values) if header.depth < 8 else values
