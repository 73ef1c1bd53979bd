"""Any bytes become upright RGB pixels, or an ImageError with the right reason; nothing else, ever."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import IMAGE_REASONS, ImageError
from runtime.images import MAX_PIXELS, DecodeOptions, decode, load

# Pillow's remarks are switched off where `runtime.images` is imported; pytest switches them on again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

BROKEN_PNGS = {  # PngSuite's own words for them, and what we say
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


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """A picture without symmetry, smooth enough for JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * x, 6 * y, 255 - 2 * x - 3 * y], axis=2).clip(0, 255).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value.reason


def picture_or_error(data: bytes) -> np.ndarray | ImageError:
    try:
        return decode(data, DecodeOptions(max_pixels=1_000_000))
    except ImageError as error:
        return error


def on_white(data: bytes) -> np.ndarray:
    """What OpenCV (libpng) reads: an independent reference for PNG."""
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
    assert broken == BROKEN_PNGS


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_every_exif_orientation_gives_the_same_upright_picture(test_data: Callable[[str], Path], shape: str) -> None:
    folder = test_data("images/difficult/exif-orientation-examples")
    upright = load(folder / f"{shape}_1.jpg").astype(int)
    for orientation in range(9):  # 0 is no valid orientation: the picture stays as it is
        turned = load(folder / f"{shape}_{orientation}.jpg")
        assert turned.shape == upright.shape, orientation
        assert turned.flags.c_contiguous
        assert np.abs(turned - upright).mean() < 4, orientation  # JPEG noise; a wrong turn is above 50


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_counts_in_every_format_that_has_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(gradient())
    stored = {
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),  # stored turned the other way than to be shown
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }.get(orientation, lambda i: i)(stored)
    found = decode(encoded(stored, kind, exif=exif))
    assert found.shape == gradient().shape
    assert np.abs(found.astype(int) - gradient()).mean() < 4


def test_simplejpeg_and_pillow_agree_bit_for_bit(test_data: Callable[[str], Path]) -> None:
    photographs = sorted(test_data("images/imagenet300").glob("*.JPEG"))[:40]
    for path in photographs:
        with Image.open(path) as image:
            if image.getexif().get(0x0112, 1) == 1:
                assert np.array_equal(load(path), np.asarray(image.convert("RGB"))), path.name


def test_libjpeg_turbo_pictures_agree_with_their_lossless_original(test_data: Callable[[str], Path]) -> None:
    folder = test_data("images/difficult/libjpeg-turbo/testimages")
    original = cv2.imread(str(folder / "testorig.ppm"))[..., ::-1].astype(int)
    for name in ("testorig.jpg", "testimgint.jpg", "testimgari.jpg"):  # baseline, integer DCT, arithmetic coding
        assert np.abs(load(folder / name) - original).mean() < 8, name
    with pytest.raises(ImageError, match=r"unsupported: .*12-bit") as caught:
        load(folder / "monkey12.jpg")
    assert str(folder / "monkey12.jpg") in str(caught.value)


def test_cmyk_becomes_rgb() -> None:
    found = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() < 12


def test_sixteen_bits_keep_their_high_byte() -> None:
    values = (np.arange(64 * 64) * 16).astype(np.uint16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(values, kind))
        assert np.array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)), kind


def test_a_palette_with_transparency_lies_on_white() -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    found = decode(encoded(image, "PNG", transparency=0))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [0, 0, 255]


def test_half_transparency_is_mixed_with_white() -> None:
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        found = decode(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), kind, **options))
        assert np.abs(found.astype(int) - 127).max() <= 1, kind


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(decode(data)[4, 4].astype(int) - [255, 0, 0]).max() < 8, kind


def test_pixels_without_an_agreed_range_are_unsupported() -> None:
    for mode in ("F", "I"):
        assert reason_of(encoded(Image.new(mode, (8, 8), 3), "TIFF")) == "unsupported", mode


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image, but text", "not_an_image"),
        (b"BMW is a car, BM is no bitmap", "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"GIF89a", "truncated"),
        (b"II*\0\x08\0\0\0\0\0", "truncated"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "truncated"),
    ],
)
def test_what_is_no_image_says_why(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_picture_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    data = encoded(gradient(), kind)
    whole = decode(data)
    refused = 0
    for cut in range(30, len(data), max(1, len(data) // 80)):
        found = picture_or_error(data[:cut])
        if isinstance(found, ImageError):
            assert found.reason == "truncated", (cut, found)
            refused += 1
        else:
            assert np.array_equal(found, whole), cut
    assert refused > 50


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_a_jpeg_that_ends_early_with_a_proper_end_marker_is_not_painted_gray(fraction: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, "JPEG")
    assert reason_of(data[: int(len(data) * fraction)] + b"\xff\xd9") == "truncated"


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bmp_of_size(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif_of_size(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + screen + frame + b"\x02\x02\x4c\x01\0;"


@pytest.mark.parametrize(
    "bomb",
    [
        png_of_size(MAX_PIXELS + 1, 1),
        png_of_size(2**31 - 1, 2**31 - 1),
        bmp_of_size(2**31 - 1, 2**30),
        gif_of_size(65535, 65535),
    ],
)
def test_a_bomb_is_refused_by_its_header(bomb: bytes) -> None:
    start = time.perf_counter()
    assert reason_of(bomb) == "too_large"
    assert time.perf_counter() - start < 0.5


def test_the_limit_on_pixels_is_exact() -> None:
    data = encoded(gradient(10, 10), "PNG")
    assert decode(data, DecodeOptions(max_pixels=100)).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="too_large: 10x10 pixels; the limit is 99"):
        decode(data, DecodeOptions(max_pixels=99))


def test_what_pillow_would_only_warn_of_is_decoded() -> None:
    """Pillow has a limit of its own at 89 million pixels, below ours."""
    assert decode(encoded(Image.new("1", (9_600, 9_600)), "PNG")).shape == (9_600, 9_600, 3)


def test_pillows_own_limit_is_left_alone() -> None:
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3


def test_damaged_exif_costs_the_orientation_not_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    good = encoded(gradient(), "JPEG", exif=exif)
    at = good.index(b"Exif\0\0") + 6
    for damage in (b"XX", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\xff"):
        data = good[:at] + damage + good[at + len(damage) :]
        assert decode(data).shape == gradient().shape, damage


def test_an_overlong_text_chunk_is_no_way_to_exhaust_memory() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    plain = encoded(gradient(), "PNG")
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000), 9))
    assert reason_of(plain[:33] + bomb + plain[33:]) == "too_large"


SAMPLES = [
    encoded(gradient(12, 9), "JPEG"),
    encoded(gradient(12, 9), "JPEG", progressive=True),
    encoded(gradient(12, 9), "PNG"),
    encoded(Image.fromarray(gradient(12, 9)).convert("P"), "PNG", transparency=3),
    encoded(gradient(12, 9), "WEBP"),
    encoded(gradient(12, 9), "BMP"),
    encoded(Image.fromarray(gradient(12, 9)).convert("P"), "BMP"),
    encoded(gradient(12, 9), "TIFF"),
    encoded(gradient(12, 9), "TIFF", compression="tiff_lzw"),
    encoded(gradient(12, 9), "TIFF", compression="tiff_adobe_deflate"),
    encoded(gradient(12, 9), "GIF"),
]


def assert_image_or_reason(data: bytes) -> None:
    found = picture_or_error(data)
    if isinstance(found, ImageError):
        assert found.reason in IMAGE_REASONS
        assert "\n" not in str(found)
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3
        assert found.size
        assert found.flags.c_contiguous


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sample=st.sampled_from(SAMPLES),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.one_of(st.none(), st.integers(0, 2**12)),
)
def test_mutated_files_give_a_picture_or_a_reason(sample: bytes, edits: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(sample)
    for position, value in edits:
        data[position % len(data)] = value
    assert_image_or_reason(bytes(data[:cut]))


@given(
    start=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF89a", b"II+\0", b""]),
    rest=st.binary(max_size=400),
)
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_give_a_picture_or_a_reason(start: bytes, rest: bytes) -> None:
    assert_image_or_reason(start + rest)


def test_decoding_in_many_threads_is_the_same_as_in_one() -> None:
    expected = [decode(sample) for sample in SAMPLES]
    barrier = threading.Barrier(8)

    def work(_: int) -> list[np.ndarray]:
        barrier.wait(timeout=30)
        return [decode(sample) for sample in SAMPLES]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(8)):
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_load_takes_bytes_files_and_pixels(tmp_path: Path) -> None:
    data = encoded(gradient(), "PNG")
    (tmp_path / "image.jpg").write_bytes(data)  # the content counts, not the name
    assert np.array_equal(load(data), gradient())
    assert np.array_equal(load(tmp_path / "image.jpg"), gradient())
    pixels = gradient()
    assert load(pixels) is pixels


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), np.uint8), "unsupported"),
        (np.zeros((4, 4, 4), np.uint8), "unsupported"),
        (np.zeros((4, 4, 3), np.float32), "unsupported"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
    ],
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        load(array)
    assert caught.value.reason == reason


def test_a_file_that_cannot_be_read_is_missing_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would never end
    for name in ("absent.jpg", ".", "pipe"):
        with pytest.raises(ImageError, match="missing: ") as caught:
            load(tmp_path / name)
        assert caught.value.reason == "missing"
        assert str(tmp_path / name) in str(caught.value)


def test_a_bad_file_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=r"not_an_image: .*bad\.jpg: 8 bytes that begin with b'nonsense'") as caught:
        load(tmp_path / "bad.jpg")
    assert pickle.loads(pickle.dumps(caught.value)).reason == "not_an_image"
