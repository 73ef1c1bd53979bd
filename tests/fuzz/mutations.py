"""How a sound file becomes a broken one.

Rules:
    * Everything is drawn from the given random generator: the same generator, the same file.
    * Half of what is done to a file respects its structure (a field of a header, a chunk, a marker, a tag), so
      that the codecs are reached behind their first check; the other half is blind.
    * On half of the PNGs the checksums are made right again.
"""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

from picture_files import PNG_SIGNATURE, jpeg_segment, png_chunk

__all__ = ["mutant"]

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

EDGES = (
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    257,
    4095,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**32 - 1,
)
PNG_CHUNK = re.compile(rb"IHDR|PLTE|tRNS|IDAT|IEND|eXIf|acTL|fcTL|fdAT")
PNG_EXTRA = (b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"IDAT", b"bKGD")
SOS, SOF = 0xDA, frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})

# (offset, bytes) of header fields, little-endian.
BMP_FIELDS = ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4), (54, 4))
GIF_FIELDS = ((6, 2), (8, 2), (10, 1), (11, 1), (12, 1))
GIF_FRAME = ((1, 2), (3, 2), (5, 2), (7, 2), (9, 1), (10, 1), (11, 1))  # from the frame's separator


def mutant(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of *seeds*, changed in one to four places."""
    data = rng.choice(seeds)
    own = next((found for signature, found in STRUCTURED.items() if data.startswith(signature)), BLIND)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if len(data) < 2:
            break
        data = rng.choice(own if rng.random() < 0.5 else BLIND)(rng, data, seeds)
    if data.startswith(PNG_SIGNATURE) and rng.random() < 0.5:
        data = with_checksums(data)
    return data


def with_checksums(data: bytes) -> bytes:
    """Return the PNG *data* with the right checksum in each of its chunks, as far as their lengths lead."""
    found, at = bytearray(data), len(PNG_SIGNATURE)
    while at + 12 <= len(found):
        (length,) = struct.unpack_from(">I", found, at)
        end = at + 8 + length
        if end + 4 > len(found):
            break
        struct.pack_into(">I", found, end, zlib.crc32(found[at + 4 : end]))
        at = end + 4
    return bytes(found)


def _number(rng: random.Random, size: int) -> int:
    value = rng.choice(EDGES) if rng.random() < 0.6 else rng.getrandbits(8 * size)
    return value % (1 << 8 * size)


def _put(data: bytes, at: int, found: bytes) -> bytes:
    return data[:at] + found + data[at + len(found) :]


# Blind


def _flip_bits(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _times in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _times in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.getrandbits(8)))
    return bytes(changed)


def _set_number(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    size = rng.choice((2, 4))
    return _put(data, rng.randrange(len(data)), _number(rng, size).to_bytes(size, rng.choice(("big", "little"))))


def _cut(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(1, len(data))]


def _cut_out(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def _repeat(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, length = rng.randrange(len(data)), rng.randint(1, 64)
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def _insert(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 32)) + data[at:]


def _erase(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, length = rng.randrange(len(data)), rng.randint(1, 256)
    return _put(data, at, (rng.choice((b"\0", b"\xff")) * length)[: len(data) - at])


def _splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(1, len(data))] + other[rng.randrange(len(other)) :]


BLIND: Sequence[Mutation] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _set_number,
    _cut,
    _cut_out,
    _repeat,
    _insert,
    _erase,
    _splice,
)


# PNG


def _png_header(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, size = rng.choice(((16, 4), (20, 4), (24, 1), (25, 1), (26, 1), (27, 1), (28, 1)))
    value = rng.choice((0, 1, 2, 3, 4, 6, 8, 16)) if size == 1 else rng.choice((_number(rng, 4), rng.randint(1, 5000)))
    return _put(data, at, value.to_bytes(size, "big"))


def _png_chunk(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Change the length or the kind of a chunk, drop it or double it."""
    places = [found.start() for found in PNG_CHUNK.finditer(data) if found.start() >= 12]
    if not places:
        return data
    at = rng.choice(places)
    length = int.from_bytes(data[at - 4 : at])
    chunk = data[at - 4 : at + 8 + length] if length < len(data) else data[at - 4 : at + 8]
    return rng.choice(
        (
            _put(data, at - 4, _number(rng, 4).to_bytes(4)),
            _put(data, at - 4, (max(0, length + rng.randint(-9, 9)) % 2**32).to_bytes(4)),
            _put(data, at, rng.choice(PNG_EXTRA)),
            data[: at - 4] + data[at - 4 + len(chunk) :],
            data[: at - 4] + chunk + data[at - 4 :],
        )
    )


def _png_extra(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    kind = rng.choice(PNG_EXTRA)
    body = rng.choice((b"", rng.randbytes(rng.randint(1, 40)), b"k\0\0" + zlib.compress(bytes(rng.choice((9, 10**6))))))
    at = rng.choice((33, max(33, len(data) - 12)))
    return data[:at] + png_chunk(kind, body) + data[at:]


def _png_pixels(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Change the scanlines, and compress them again."""
    at = data.find(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    try:
        scanlines = zlib.decompressobj().decompress(data[at + 4 : at + 4 + length], 1 << 20)
    except zlib.error:
        return data
    changed = rng.choice(BLIND)(rng, scanlines, seeds) if len(scanlines) > 1 else b"\0"
    return data[: at - 4] + png_chunk(b"IDAT", zlib.compress(changed)) + data[at + 8 + length :]


# JPEG


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Return (marker, start, end) of each segment up to the first scan's header."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append((kind, at, min(end, len(data))))
        at = end
        if kind == SOS:
            break
    return found


def _jpeg_frame(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Change the kind, precision, size, components or sampling of the frame."""
    frame = next(((start, end) for kind, start, end in _segments(data) if kind in SOF), None)
    if frame is None or frame[1] - frame[0] < 13:
        return data
    start, end = frame
    component = rng.randrange(start + 10, end)
    return rng.choice(
        (
            _put(data, start + 1, bytes((rng.choice(sorted(SOF)),))),
            _put(data, start + 4, bytes((rng.choice((2, 8, 12, 16)),))),
            _put(data, start + 5, rng.choice((_number(rng, 2), rng.randint(1, 2000))).to_bytes(2)),
            _put(data, start + 7, rng.choice((_number(rng, 2), rng.randint(1, 2000))).to_bytes(2)),
            _put(data, start + 9, bytes((rng.randint(0, 5),))),
            _put(data, component, bytes((rng.choice((0x11, 0x22, 0x41, 0x14, 0x31, 0x44, 0, 1, 2)),))),
        )
    )


def _jpeg_segment(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Drop, double or change a segment, or put another one before it."""
    segments = _segments(data)
    if not segments:
        return data
    _, start, end = rng.choice(segments)
    at = rng.randrange(start, end)
    kind = rng.choice((0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE, 0x01, 0xD8, 0xF0))
    return rng.choice(
        (
            data[:start] + data[end:],
            data[:end] + data[start:end] + data[end:],
            _put(data, at, rng.randbytes(1)),
            data[:start] + jpeg_segment(kind, rng.randbytes(rng.randint(0, 30))) + data[start:],
            data[:start] + rng.randbytes(rng.randint(1, 9)) + data[start:],
        )
    )


def _jpeg_scan(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Cut a scan and end the file, put a marker into it, or double it."""
    start = data.rfind(b"\xff\xda", 0, rng.randrange(len(data)) + 1)
    start = data.find(b"\xff\xda") if start < 0 else start
    if start < 0 or start + 4 >= len(data):
        return data
    at = rng.randrange(start + 3, len(data))
    marker = bytes((0xFF, rng.choice((0x00, 0xD0, 0xD3, 0xD7, 0xD8, 0xD9, 0xDA, 0xC4, 0xFF, 0x01))))
    return rng.choice(
        (
            data[:at] + b"\xff\xd9",
            data[:at] + marker + data[at:],
            data[:-2] + data[start:],
            data[:-2] + data[start:-2] * rng.choice((3, 100)) + b"\xff\xd9",
        )
    )


# The others: fields of headers


def _fields(places: Sequence[tuple[int, int]], start: Callable[[bytes], int] = lambda _: 0) -> Mutation:
    def change(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
        at, size = rng.choice(places)
        at += max(0, start(data))
        value = rng.choice((_number(rng, size), rng.randint(0, 300) % (1 << 8 * size)))
        return _put(data, at, value.to_bytes(size, "little")) if at + size <= len(data) else data

    return change


def _webp_chunk(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Change the length, the kind or the first bytes of a chunk."""
    places = [found.start() for found in re.finditer(rb"VP8[ LX]|ALPH|ANIM|ANMF|EXIF", data)]
    if not places:
        return data
    at = rng.choice(places)
    return rng.choice(
        (
            _put(data, at, rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"))),
            _put(data, at + 4, _number(rng, 4).to_bytes(4, "little")),
            _put(data, at + 8 + rng.randrange(10), rng.randbytes(rng.randint(1, 3))),
        )
    )


def _tiff_entry(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Change the tag, type, count or value of an entry of the first directory."""
    order, big = ("<" if data[:1] == b"I" else ">"), data[2:4] in {b"+\0", b"\0+"}
    if len(data) < 16:
        return data
    at = struct.unpack_from(f"{order}Q", data, 8)[0] + 8 if big else struct.unpack_from(f"{order}I", data, 4)[0] + 2
    count = (rng.randrange(20) if at + 4 < len(data) else 0, 20 if big else 12)
    entry = at + count[0] * count[1]
    if entry + count[1] > len(data):
        return data
    where, size = rng.choice(((0, 2), (2, 2), (4, 4), (12 if big else 8, 4), (12 if big else 8, 2)))
    kind = rng.choice((1, 2, 3, 4, 5, 7, 11, 12, 13, 16)) if where == 2 else _number(rng, size)
    return _put(data, entry + where, struct.pack(order + {2: "H", 4: "I"}[size], kind))


STRUCTURED: Mapping[bytes, Sequence[Mutation]] = {
    b"\x89PNG": (_png_header, _png_chunk, _png_extra, _png_pixels),
    b"\xff\xd8": (_jpeg_frame, _jpeg_segment, _jpeg_scan),
    b"RIFF": (_webp_chunk,),
    b"BM": (_fields(BMP_FIELDS),),
    b"GIF8": (_fields(GIF_FIELDS), _fields(GIF_FRAME, lambda data: data.find(b",", 13))),
    b"II": (_tiff_entry,),
    b"MM": (_tiff_entry,),
}
