"""BMP, GIF, TIFF and WebP: what their codecs let pass is refused, and what is sound is read."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from picture_checks import as_pillow, reason_of
from picture_files import bmp, encoded, gif, gradient, tiff, translucent
from PIL import Image, TiffImagePlugin

from runtime.errors import ImageError
from runtime.images import DecodeOptions, decode, read

RAMP = bytes(range(256))  # 16x16 gray
TWO_COLOURS = b"\0\0\0\0\xff\0\0\0"

# BMP


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("width", [1, 3, 4, 17])
def test_bmps_of_every_width_are_read_as_pillow_reads_them(mode: str, width: int) -> None:
    data = encoded(translucent(9, width).convert(mode), "BMP")
    assert np.array_equal(decode(data), as_pillow(data))


def test_a_bmp_may_stand_upright_or_upside_down() -> None:
    rows = b"".join(bytes((n, n, n)) * 4 for n in range(3))
    assert decode(bmp(4, 3, rows))[:, 0, 0].tolist() == [2, 1, 0]
    assert decode(bmp(4, -3, rows))[:, 0, 0].tolist() == [0, 1, 2]
    assert read(bmp(4, -3, rows)).decoder == "opencv"


@pytest.mark.parametrize("compression", [1, 2])
def test_run_length_coded_bmps_are_whole_or_refused(compression: int) -> None:
    rows = b"\4\1\0\0" * 4 + b"\0\1"
    bits = {1: 8, 2: 4}[compression]
    whole = bmp(4, 4, rows, bits=bits, compression=compression, palette=TWO_COLOURS)
    assert np.array_equal(decode(whole), as_pillow(whole))
    for end in (4, 8, 13):
        cut = bmp(4, 4, rows[:end], bits=bits, compression=compression, palette=TWO_COLOURS)
        assert reason_of(cut) == "truncated", end


@pytest.mark.parametrize("missing", [1, 12, 47, 48])
def test_a_bmp_without_all_its_pixels_is_refused(missing: int) -> None:
    with pytest.raises(ImageError, match=f"truncated: BMP: {missing} bytes of pixels are missing"):
        decode(bmp(4, 4, bytes(48 - missing)))


@pytest.mark.parametrize("compression", [4, 5, 99])
def test_jpeg_and_png_within_bmp_are_unsupported(compression: int) -> None:
    assert reason_of(bmp(4, 4, bytes(48), compression=compression)) == "unsupported"


# GIF


@pytest.mark.parametrize("codes", [b"", b"\x02\x4c\x01", b"\x03\x44\x34\x05"], ids=["none", "empty", "few"])
def test_a_gif_whose_frame_ends_early_is_refused(codes: bytes) -> None:
    assert reason_of(gif(codes)) == "truncated"


def test_a_gif_without_frame_is_refused() -> None:
    assert reason_of(b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0, 0, 0) + b";") == "truncated"


@pytest.mark.parametrize("interlace", [0, 1])
def test_gifs_are_read_as_pillow_reads_them(interlace: int) -> None:
    data = encoded(Image.fromarray(gradient()).convert("P"), "GIF", interlace=interlace, transparency=7)
    for background in ((255, 255, 255), (3, 2, 1)):
        assert np.array_equal(decode(data, DecodeOptions(background=background)), as_pillow(data, background))


def test_a_frame_smaller_than_its_screen_keeps_its_place() -> None:
    frame = encoded(Image.new("P", (4, 4), 1), "GIF")
    larger = frame[:6] + struct.pack("<HH", 20, 10) + frame[10:]
    assert decode(larger).shape == (10, 20, 3)
    assert np.array_equal(decode(larger), as_pillow(larger))


# TIFF


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "tiff_lzw"},
        {"compression": "tiff_adobe_deflate"},
        {"compression": "packbits"},
        {"compression": "jpeg"},
        {"big_tiff": True},
        {"tiffinfo": {278: 7}},
        {"compression": "tiff_lzw", "tiffinfo": {278: 7}},
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_tiffs_are_read_as_pillow_reads_them(options: dict[str, Any], mode: str) -> None:
    data = encoded(Image.fromarray(gradient()).convert(mode), "TIFF", **options)
    assert np.array_equal(decode(data), as_pillow(data))


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_fax_tiffs_are_read(compression: str) -> None:
    data = encoded(Image.fromarray(gradient()).convert("1"), "TIFF", compression=compression)
    assert np.array_equal(decode(data), as_pillow(data))


def test_cmyk_and_transparent_tiffs_are_read() -> None:
    for image in (Image.fromarray(gradient()).convert("CMYK"), translucent(), translucent().convert("LA")):
        data = encoded(image, "TIFF", compression="tiff_lzw")
        assert np.array_equal(decode(data), as_pillow(data)), image.mode


def test_strips_and_tiles_are_put_together() -> None:
    picture = np.frombuffer(RAMP, np.uint8).reshape(16, 16)
    gray = np.repeat(picture[..., None], 3, axis=2)
    assert np.array_equal(decode(tiff(RAMP, {})), gray)
    assert np.array_equal(decode(tiff(RAMP, {278: [4], 273: [0, 64, 128, 192], 279: [64] * 4})), gray)
    tiles = {322: [16], 323: [8], 324: [128, 0], 325: [128, 128], 273: [], 278: [], 279: []}
    assert np.array_equal(decode(tiff(RAMP, tiles)), np.roll(gray, 8, axis=0))


def test_pixels_without_an_agreed_range_are_unsupported() -> None:
    for mode in ("F", "I"):
        assert reason_of(encoded(Image.new(mode, (8, 8), 3), "TIFF")) == "unsupported", mode


@pytest.mark.parametrize(
    "tags",
    [
        {278: [4], 273: [0, 64], 279: [64, 64]},
        {273: [1_000_000]},
        {278: [8], 273: [0, 1_000_000], 279: [128, 128]},
        {273: [200]},
        {278: [0]},
        {322: [16], 323: [4], 324: [0, 64, 128], 325: [64] * 3, 273: [], 278: [], 279: []},
        {322: [16], 323: [0], 324: [0], 325: [64], 273: [], 278: [], 279: []},
    ],
    ids=["two of four strips", "outside", "second outside", "partly outside", "no rows", "three of four tiles", "flat"],
)
def test_a_tiff_whose_pixels_are_not_all_there_is_refused(tags: dict[int, list[int]]) -> None:
    assert reason_of(tiff(RAMP, tags)) == "truncated"


def test_an_offset_into_the_header_is_no_strip() -> None:
    data = tiff(RAMP, {})
    entry = data.index(struct.pack("<HHI", 273, 4, 1)) + 8
    assert reason_of(data[:entry] + bytes(4) + data[entry + 4 :]) == "truncated"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_strips_that_end_early_are_refused(compression: str) -> None:
    data = encoded(gradient(), "TIFF", compression=compression)
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        (count,) = image.tag_v2[279]
    entry = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    assert reason_of(data[:entry] + struct.pack("<I", count // 2) + data[entry + 4 :]) == "truncated"


def test_deflated_strips_with_a_hole_are_refused() -> None:
    """Zeros may be codes, too: libtiff reads black from there, and does not look at the checksum."""
    data = encoded(gradient(), "TIFF", compression="tiff_adobe_deflate")
    hole = data[:3303] + bytes(3295) + data[6598:]
    assert as_pillow(hole).shape == gradient().shape, "libtiff lets it pass"
    assert reason_of(hole) == "truncated"


def test_damage_in_a_jpeg_within_a_tiff_is_refused() -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "TIFF", compression="jpeg")
    assert np.array_equal(decode(data), as_pillow(data))
    scan = data.index(b"\xff\xda")
    damaged = data[: scan + 400] + b"\xff\xd9" + bytes(1000) + data[scan + 1402 :]
    assert as_pillow(damaged).shape == (64, 64, 3), "libtiff lets it pass"
    assert reason_of(damaged) == "truncated"


@pytest.mark.parametrize(
    "tags",
    [
        {256: [2**31 - 1], 257: [2**31 - 1]},
        {322: [2**20], 323: [2**20], 324: [0], 325: [64], 273: [], 278: [], 279: []},
    ],
    ids=["picture", "tile"],
)
def test_a_tiff_that_claims_too_much_is_refused_at_once(tags: dict[int, list[int]]) -> None:
    start = time.process_time()
    assert reason_of(tiff(RAMP, tags)) == "too_large"
    assert time.process_time() - start < 0.25


@pytest.mark.parametrize("samples", [0, 5, 65535, 2**31])
def test_absurd_samples_are_refused(samples: int) -> None:
    assert reason_of(tiff(RAMP, {277: [samples]})) in {"truncated", "unsupported"}


# WebP


@pytest.mark.parametrize("lossless", [False, True])
def test_webps_are_read_as_pillow_reads_them(lossless: bool) -> None:
    for image in (Image.fromarray(gradient()), translucent()):
        data = encoded(image, "WEBP", lossless=lossless)
        assert np.array_equal(decode(data), as_pillow(data)), image.mode


@pytest.mark.parametrize(
    "chunk",
    [
        b"VP8 " + struct.pack("<I", 10) + bytes(6) + struct.pack("<HH", 0x3FFF, 0x3FFF),
        b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 0x0FFFFFFF),
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
    ],
    ids=["lossy", "lossless", "extended"],
)
def test_the_size_of_a_webp_is_refused_before_its_codec_sees_it(chunk: bytes) -> None:
    start = time.process_time()
    assert reason_of(b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk) == "too_large"
    assert time.process_time() - start < 0.25


def test_a_damaged_webp_is_refused() -> None:
    """OpenCV would take what libwebp could make of it for the whole picture."""
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "WEBP", lossless=True)
    assert reason_of(data[:-200] + zlib.compress(bytes(10)) + bytes(182)) == "truncated"
