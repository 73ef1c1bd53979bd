"""JPEG: damage is refused also where libjpeg would paint over it, and oddities that cost nothing are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from picture_checks import as_pillow, reason_of
from picture_files import encoded, flat_jpeg, gradient, jpeg_segment
from PIL import Image

from runtime.errors import ImageError
from runtime.images import DecodeOptions, decode, load, read
from runtime.images.jpeg import mended

JFIF_OF_VERSION_5 = jpeg_segment(0xE0, b"JFIF\0\5\1\0\0\1\0\1\0\0")
TRUNCATED = DecodeOptions(allow_truncated=True)


def adobe(transform: int) -> bytes:
    return jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes((transform,)))


def noise(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def with_stray_bytes(data: bytes) -> bytes:
    at = data.index(b"\xff\xc4")
    return data[:at] + b"stray" + data[at:]


def test_simplejpeg_and_pillow_agree_bit_for_bit(test_data: Callable[[str], Path]) -> None:
    photographs = sorted(test_data("images/imagenet300").glob("*.JPEG"))[:40]
    for path in photographs:
        assert np.array_equal(load(path), as_pillow(path.read_bytes())), path.name


def test_libjpeg_turbo_pictures_agree_with_their_lossless_original(test_data: Callable[[str], Path]) -> None:
    folder = test_data("images/difficult/libjpeg-turbo/testimages")
    original = np.asarray(Image.open(folder / "testorig.ppm")).astype(int)
    for name in ("testorig.jpg", "testimgint.jpg", "testimgari.jpg"):  # baseline, integer DCT, arithmetic coding
        assert np.abs(load(folder / name) - original).mean() < 8, name
    with pytest.raises(ImageError, match=r"unsupported: .*12-bit") as caught:
        load(folder / "monkey12.jpg")
    assert str(folder / "monkey12.jpg") in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_cmyk_becomes_rgb(options: dict[str, bool]) -> None:
    data = encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG", **options)
    assert np.array_equal(decode(data), as_pillow(data))
    red = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(decode(red).astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_and_ycck_of_adobe_are_inverted_as_pillow_inverts_them(transform: int) -> None:
    data = flat_jpeg(((2, 2), (1, 1), (1, 1), (2, 2)), head=adobe(transform))
    assert read(data).decoder == "simplejpeg"
    assert np.array_equal(decode(data), as_pillow(data))


@pytest.mark.parametrize(
    ("factors", "decoder"),
    [
        ([(1, 1)], "simplejpeg"),
        ([(2, 2)], "simplejpeg"),
        ([(4, 1), (1, 1), (1, 1)], "simplejpeg"),
        ([(1, 4), (1, 1), (1, 1)], "simplejpeg"),
        ([(3, 1), (1, 1), (1, 1)], "pillow"),
        ([(4, 2), (1, 1), (1, 1)], "pillow"),
        ([(1, 1), (2, 2), (2, 2)], "pillow"),
    ],
)
def test_any_sampling_that_libjpeg_knows_is_read(factors: list[tuple[int, int]], decoder: str) -> None:
    data = flat_jpeg(factors)
    assert read(data).decoder == decoder
    assert np.array_equal(decode(data), as_pillow(data))


@pytest.mark.parametrize(
    "odd",
    [
        flat_jpeg(head=JFIF_OF_VERSION_5),
        flat_jpeg(head=adobe(7)),
        flat_jpeg(((1, 1),) * 4, head=adobe(7)),
        with_stray_bytes(flat_jpeg()),
        flat_jpeg() + b"behind the end",
        flat_jpeg()[:-2] + b"more than the scan needs" + b"\xff\xd9",
    ],
    ids=["jfif", "adobe", "adobe cmyk", "stray", "behind", "long scan"],
)
def test_what_costs_nothing_is_read(odd: bytes) -> None:
    assert np.array_equal(decode(odd), as_pillow(odd))


@pytest.mark.parametrize("odd", [b"", JFIF_OF_VERSION_5, adobe(7)], ids=["plain", "jfif", "adobe"])
@pytest.mark.parametrize("stray", [False, True])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_damage_does_not_hide_behind_an_oddity(odd: bytes, stray: bool, fraction: float) -> None:
    data = encoded(noise(), "JPEG")
    data = data[:2] + odd + (data[20:] if odd else data[2:])  # in place of Pillow's JFIF segment
    data = with_stray_bytes(data) if stray else data
    assert decode(data).shape == (64, 64, 3)
    assert reason_of(data[: int(len(data) * fraction)] + b"\xff\xd9") == "truncated"


def test_mending_leaves_nothing_to_grumble_about_and_the_scan_alone() -> None:
    data = encoded(noise(), "JPEG", comment=b"comment", restart_marker_rows=1)
    odd = with_stray_bytes(data.replace(b"JFIF\0\1\1", b"JFIF\0\5\1"))
    found = mended(odd, "RGB")
    assert found == mended(data, "RGB")
    assert b"comment" not in found
    assert found[found.index(b"\xff\xda") :] == data[data.index(b"\xff\xda") :]
    assert np.array_equal(decode(found), decode(data))


def test_damage_in_the_middle_is_refused() -> None:
    data = bytearray(encoded(noise(), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff\xd9" * 20
    assert reason_of(bytes(data)) == "truncated"


@pytest.mark.parametrize("sof", [0xC3, 0xC5, 0xC7, 0xCB])
def test_processes_that_no_decoder_has_are_refused(sof: int) -> None:
    assert reason_of(flat_jpeg(sof=sof)) in {"truncated", "unsupported"}


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_what_is_there_is_taken_if_that_is_allowed(kind: dict[str, object], end: bytes) -> None:
    data = encoded(noise(), "JPEG", **kind)
    whole = decode(data)
    found = read(data[: len(data) * 2 // 3] + end, TRUNCATED)
    assert (found.truncated, found.decoder) == (True, "simplejpeg")
    assert found.size == (64, 64)
    if not kind.get("progressive"):
        assert np.array_equal(found.pixels[:24], whole[:24])
    assert not np.array_equal(found.pixels, whole)


def test_what_is_there_is_taken_of_cmyk_and_unusual_sampling_too() -> None:
    cmyk = encoded(Image.fromarray(noise()).convert("CMYK"), "JPEG")
    found = read(cmyk[: len(cmyk) // 2], TRUNCATED)
    assert found.truncated
    assert np.array_equal(found.pixels[:16], decode(cmyk)[:16])
    unusual = flat_jpeg(((3, 1), (1, 1), (1, 1)), width=240, height=240)
    found = read(unusual[:-30], TRUNCATED)
    assert (found.truncated, found.decoder) == (True, "pillow")


def test_damage_behind_an_oddity_can_be_taken_too() -> None:
    data = with_stray_bytes(encoded(noise(), "JPEG"))
    assert read(data[: len(data) // 2], TRUNCATED).truncated


def test_a_file_of_which_nothing_can_be_decoded_stays_refused() -> None:
    data = encoded(noise(), "JPEG")
    scan = data.index(b"\xff\xda") + 14
    for cut in (3, 20, data.index(b"\xff\xc0") + 4, scan - 5, scan, scan + 1):
        assert reason_of(data[:cut], TRUNCATED) == "truncated", cut
    assert reason_of(flat_jpeg(((3, 1), (1, 1), (1, 1)))[:-90], TRUNCATED) == "truncated"


def test_a_header_that_promises_more_than_the_file_can_hold_is_refused_at_once() -> None:
    data = flat_jpeg().replace(b"\x08\x00\x30\x00\x40", b"\x08\x20\x00\x20\x00")  # 8192x8192
    start = time.process_time()
    with pytest.raises(ImageError, match=r"truncated: .* bytes cannot hold 8192x8192 pixels"):
        decode(data)
    assert time.process_time() - start < 0.25


def test_scans_are_bounded() -> None:
    data = encoded(gradient(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    large = data.replace(b"\x08\x00\x28\x00\x3c", b"\x08\x08\x00\x08\x00")  # 2048x2048
    start = time.process_time()
    assert reason_of(large[:-2] + scan * 100 + b"\xff\xd9") == "too_large"
    assert time.process_time() - start < 0.25
