"""PNG: every row must be there, and every depth and transparency comes out right."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_checks import as_pillow, reason_of
from picture_files import PNG_SIGNATURE, encoded, gradient, png, png_chunk, png_chunks, translucent
from PIL import Image

from runtime.errors import ImageError
from runtime.images import DecodeOptions, decode, read
from runtime.images import png as png_module

TRUNCATED = DecodeOptions(allow_truncated=True, background=(9, 8, 7))
ROWS = b"".join(bytes((y % 5,)) + bytes((x * y) % 256 for x in range(30)) for y in range(10))  # 10x10 RGB, all filters

BOMB = zlib.compress(bytes(100_000_000), 1)
FORMS = [(color, depth) for color, depths in png_module.DEPTHS.items() for depth in depths]

BROKEN = {  # PngSuite's own words for them, and what we say
    "xc1n0g08": "truncated",  # color type 1
    "xc9n2c08": "truncated",  # color type 9
    "xcrn0g04": "truncated",  # added CR bytes
    "xcsn0g01": "truncated",  # incorrect IDAT checksum
    "xd0n2c08": "truncated",  # bit depth 0
    "xd3n2c08": "truncated",  # bit depth 3
    "xd9n2c08": "truncated",  # bit depth 99
    "xdtn0g01": "truncated",  # missing IDAT chunk
    "xhdn0g08": "truncated",  # incorrect IHDR checksum
    "xlfn0g04": "truncated",  # added LF bytes
    "xs1n0g01": "not_an_image",  # signature byte 1 MSBit reset to zero
    "xs2n0g01": "not_an_image",  # signature byte 2 is a 'Q'
    "xs4n0g01": "not_an_image",  # signature byte 4 lowercase
    "xs7n0g01": "truncated",  # 7th byte a space instead of control-Z
}


def on_white(data: bytes) -> np.ndarray:
    """What OpenCV (libpng) reads of the file as it is: an independent reference."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    pixels = (found >> 8).astype(np.uint8) if found.dtype == np.uint16 else found
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels[..., ::-1]
    alpha = pixels[..., 3:] / 255
    return np.rint(pixels[..., 2::-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)


@pytest.fixture(scope="module")
def pngsuite(test_data: Callable[[str], Path]) -> list[Path]:
    return sorted(test_data("images/difficult/pngsuite/png").glob("*.png"))


def test_pngsuite_is_read_as_libpng_reads_it(pngsuite: list[Path]) -> None:
    good = [path for path in pngsuite if not path.name.startswith("x")]
    assert len(good) > 150
    for path in good:
        data = path.read_bytes()
        found, expected = decode(data), on_white(data)
        assert found.shape == expected.shape, path.name
        assert np.abs(found.astype(int) - expected).max() <= 1, path.name


def test_the_broken_files_of_pngsuite_are_refused(pngsuite: list[Path]) -> None:
    broken = {path.stem: reason_of(path.read_bytes()) for path in pngsuite if path.name.startswith("x")}
    assert broken == BROKEN


# Every row


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (zlib.compress(b""), "0 of 310 bytes"),
        (zlib.compress(ROWS[:155]), "155 of 310 bytes"),
        (zlib.compress(ROWS[:-1]), "309 of 310 bytes"),
        (zlib.compress(ROWS)[:-8], "of 310 bytes of pixels, and no end of them"),
        (zlib.compress(ROWS)[:-4] + b"0000", "incorrect data check"),
        (b"no zlib at all", "incorrect header check"),
        (zlib.compress(b"\5" + ROWS[1:]), "filter type 5"),
        (b"", "0 of 310 bytes"),
    ],
)
def test_pixels_that_are_missing_or_damaged_are_refused(stream: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=f"truncated: PNG: .*{said}"):
        decode(png(10, 10, b"", stream=stream))


def test_more_pixels_than_needed_do_no_harm() -> None:
    assert np.array_equal(decode(png(10, 10, ROWS + b"\0" * 9)), decode(png(10, 10, ROWS)))


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("color", "depth"), [(color, depth) for color, depths in png_module.DEPTHS.items() for depth in depths]
)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (9, 5), (33, 17)])
def test_rows_are_counted_right(size: tuple[int, int], color: int, depth: int, interlace: int) -> None:
    """One byte less than the file needs is refused, for every form and also where passes are empty."""
    width, height = size
    header = png_module.Header(width=width, height=height, depth=depth, color=color, interlaced=bool(interlace))
    length = sum(rows * stride for rows, stride in header.passes)
    palette = png_chunk(b"PLTE", bytes(range(256)) * 3) if color == 3 else b""
    whole = png(width, height, bytes(length), color=color, depth=depth, interlace=interlace, before=palette)
    assert decode(whole).shape == (height, width, 3)
    assert on_white(whole).shape == (height, width, 3)
    short = png(width, height, bytes(length - 1), color=color, depth=depth, interlace=interlace, before=palette)
    assert reason_of(short) == "truncated"


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_picture_of_no_pixels_is_not_black(mode: str) -> None:
    chunks = dict(png_chunks(encoded(Image.fromarray(gradient()).convert(mode), "PNG")))
    for stream in (None, b"", zlib.compress(b"")):
        kept = [(kind, body) for kind, body in chunks.items() if kind != b"IDAT"]
        if stream is not None:
            kept.insert(-1, (b"IDAT", stream))
        assert reason_of(PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in kept)) == "truncated"


def test_a_palette_that_is_missing_is_refused() -> None:
    assert reason_of(png(4, 4, bytes(20), color=3)) == "truncated"


def test_of_two_palettes_the_last_before_the_pixels_counts() -> None:
    palettes = [png_chunk(b"PLTE", bytes((level,) * 3)) for level in (10, 20, 30)]
    data = png(4, 4, bytes(20), color=3, before=palettes[0] + palettes[1])
    data = data[:-12] + palettes[2] + data[-12:]
    assert np.array_equal(decode(data), as_pillow(data))
    assert decode(data)[0, 0].tolist() == [20, 20, 20]


@pytest.mark.parametrize(("kind", "refused"), [(b"IDAT", True), (b"PLTE", True), (b"tIME", False)])
def test_checksums_count_where_pixels_depend_on_them(kind: bytes, refused: bool) -> None:
    image = Image.fromarray(gradient()).convert("P")
    chunks = [(name, png_chunk(name, body)) for name, body in png_chunks(encoded(image, "PNG"))]
    chunks.insert(-1, (b"tIME", png_chunk(b"tIME", bytes(7))))  # behind the pixels
    data = PNG_SIGNATURE + b"".join(c[:-1] + bytes((c[-1] ^ 1,)) if name == kind else c for name, c in chunks)
    if refused:
        assert reason_of(data) == "truncated"
    else:
        assert np.array_equal(decode(data), as_pillow(data))


def test_large_pictures_are_checked_without_being_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    data, short = encoded(gradient(), "PNG"), png(300, 200, bytes(901 * 150))
    wrong = png(300, 200, (b"\7" + bytes(900)) * 200)
    expected = decode(data)
    monkeypatch.setattr(png_module, "MAX_STORED", 100)
    monkeypatch.setattr(png_module, "UNKEPT", 1000)
    assert np.array_equal(decode(data), expected)
    assert np.array_equal(decode(encoded(translucent(), "PNG")), as_pillow(encoded(translucent(), "PNG")))
    assert reason_of(short) == "truncated"
    with pytest.raises(ImageError, match="filter type 7"):
        decode(wrong)


# Depths and transparency


def test_sixteen_bits_keep_their_high_byte() -> None:
    values = (np.arange(64 * 64) * 16).astype(np.uint16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(values, kind))
        assert np.array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)), kind


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_gray_is_found_at_every_depth(depth: int) -> None:
    row = b"\0" + bytes((0b01010011,) * depth)
    data = png(8, 1, row, depth=depth, color=0)
    values = decode(data)[0, :, 0]
    levels = (1 << depth) - 1
    key = int(values[0]) * levels // 255
    keyed = png(
        8,
        1,
        b"\0" + bytes((0b01010011,) * depth),
        depth=depth,
        color=0,
        before=png_chunk(b"tRNS", struct.pack(">H", key)),
    )
    found = decode(keyed, DecodeOptions(background=(1, 2, 3)))
    assert (found[0, values == values[0]] == (1, 2, 3)).all()
    assert np.array_equal(found[0, values != values[0]], decode(data)[0, values != values[0]])


def test_of_a_transparent_gray_the_bits_beyond_its_depth_are_ignored() -> None:
    data = png(2, 1, b"\0\7\10", color=0, before=png_chunk(b"tRNS", b"\xff\7"))
    assert decode(data)[0, :, 0].tolist() == [255, 8]
    assert np.array_equal(decode(data), as_pillow(data))


def test_a_transparent_colour_of_sixteen_bits_is_compared_in_full() -> None:
    """The low bytes differ: Pillow, with eight bits of each, takes both or neither for transparent."""
    gray = struct.pack(">2H", 0x1234, 0x1235)
    found = decode(png(2, 1, b"\0" + gray, depth=16, color=0, before=png_chunk(b"tRNS", gray[:2])))
    assert found[0].tolist() == [[255] * 3, [0x12] * 3]
    rgb = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1234, 0x5678, 0x9ABD)
    found = decode(png(2, 1, b"\0" + rgb, depth=16, color=2, before=png_chunk(b"tRNS", rgb[:6])))
    assert found[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A]]


@pytest.mark.parametrize("color", [4, 6])
def test_sixteen_bits_with_alpha_lie_on_the_background(color: int) -> None:
    samples = png_module.CHANNELS[color]
    pixel = [0x4000] * (samples - 1)
    body = struct.pack(f">{2 * samples}H", *pixel, 0xFFFF, *pixel, 0)
    found = decode(png(2, 1, b"\0" + body, depth=16, color=color), DecodeOptions(background=(7, 8, 9)))
    assert found[0].tolist() == [[0x40] * 3, [7, 8, 9]]


def test_gamma_and_profiles_change_nothing() -> None:
    plain = png(10, 10, ROWS)
    for kind, body in ((b"gAMA", struct.pack(">I", 100_000)), (b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))):
        assert np.array_equal(decode(png(10, 10, ROWS, before=png_chunk(kind, body))), decode(plain))


def test_an_orientation_behind_the_pixels_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(gradient(), "PNG")
    data = plain[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + plain[-12:]
    assert np.array_equal(decode(data), np.rot90(gradient(), -1))


# Bombs


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_in_a_chunk_beside_the_pixels_is_refused(kind: bytes) -> None:
    text = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind] + BOMB
    start = time.process_time()
    assert reason_of(png(10, 10, ROWS, before=png_chunk(kind, text))) == "too_large"
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("sizes", [((10, 10), (60_000, 60_000)), ((60_000, 60_000), (10, 10))])
def test_a_second_header_is_no_way_around_the_limit(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    first, second = (png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in sizes)
    data = PNG_SIGNATURE + first + second + png_chunk(b"IDAT", BOMB) + png_chunk(b"IEND", b"")
    start = time.process_time()
    assert reason_of(data) in {"too_large", "truncated"}
    assert time.process_time() - start < 0.1


def test_pixels_are_inflated_no_further_than_the_header_says() -> None:
    start = time.process_time()
    assert decode(png(10, 10, b"", stream=BOMB)).shape == (10, 10, 3)
    assert time.process_time() - start < 0.1


# Truncated


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
def test_whole_rows_are_taken_if_that_is_allowed(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 40, 4), dtype=np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), "PNG")
    whole = decode(data, TRUNCATED)
    found = read(data[: len(data) // 2], TRUNCATED)
    assert found.truncated
    rows = int((found.pixels == whole).all(axis=(1, 2)).argmin())
    assert 10 < rows < 50
    assert (found.pixels[rows:] == (9, 8, 7)).all()


def test_what_comes_before_damage_is_taken_too() -> None:
    data = bytearray(encoded(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8), "PNG"))
    whole = decode(bytes(data))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    found = read(bytes(data), TRUNCATED)
    assert found.truncated
    assert np.array_equal(found.pixels[:60], whole[:60])
    filters = png(10, 10, ROWS[:155] + b"\x99" + ROWS[156:])
    assert np.array_equal(decode(filters, TRUNCATED)[:5], decode(png(10, 10, ROWS))[:5])
    assert (decode(filters, TRUNCATED)[5:] == (9, 8, 7)).all()


def test_a_wrong_checksum_alone_costs_nothing_where_damage_is_allowed() -> None:
    data = encoded(gradient(), "PNG")
    at = data.index(b"IDAT") + 4 + struct.unpack_from(">I", data, data.index(b"IDAT") - 4)[0]
    wrong = data[:at] + b"0000" + data[at + 4 :]
    assert reason_of(wrong) == "truncated"
    assert np.array_equal(decode(wrong, TRUNCATED), gradient())


def test_a_file_without_a_whole_row_stays_refused() -> None:
    for data in (png(10, 10, ROWS[:30]), png(10, 10, b""), encoded(gradient(), "PNG")[:50]):
        assert reason_of(data, TRUNCATED) == "truncated"
    interlaced = png(8, 8, bytes(10), interlace=1)
    assert reason_of(interlaced, TRUNCATED) == "truncated"
