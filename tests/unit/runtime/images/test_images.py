"""Any bytes become upright RGB pixels, or an ImageError with the right reason; nothing else, ever."""

from __future__ import annotations

import os
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_checks import as_pillow, picture_or_error, reason_of
from picture_files import bmp, encoded, flat_jpeg, gif, gradient, png, translucent
from PIL import Image, ImageFile

from runtime.errors import IMAGE_REASONS, ImageError
from runtime.images import MAX_PIXELS, DecodeOptions, decode, load, read
from runtime.images.decoders import CHAINS, chain_of, decode_with, format_of

# Pillow's remarks are switched off where `runtime.images` is imported; pytest switches them on again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

SMALL = Image.fromarray(gradient(12, 9))
SAMPLES = [
    encoded(SMALL, "JPEG"),
    encoded(SMALL, "JPEG", progressive=True),
    encoded(SMALL.convert("CMYK"), "JPEG"),
    flat_jpeg(((3, 1), (1, 1), (1, 1))),
    encoded(SMALL, "PNG"),
    encoded(SMALL.convert("P"), "PNG", transparency=3),
    encoded(translucent(12, 9), "PNG"),
    encoded(SMALL, "WEBP"),
    encoded(SMALL, "BMP"),
    encoded(SMALL.convert("P"), "BMP"),
    encoded(SMALL, "TIFF"),
    encoded(SMALL, "TIFF", compression="tiff_lzw"),
    encoded(SMALL, "TIFF", compression="tiff_adobe_deflate"),
    encoded(SMALL, "TIFF", compression="jpeg"),
    encoded(SMALL, "GIF"),
]
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]

STORED_AS = {  # how an upright picture lies in a file of that EXIF orientation
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),  # the other way than it is to be turned
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def oriented(value: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


# Formats and decoders


WRITTEN = {  # what Pillow's encoders write
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"),
    "GIF": ("1", "L", "LA", "P", "RGB", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in WRITTEN.items() for mode in modes])
def test_every_form_that_an_encoder_writes_is_decoded_as_pillow_decodes_it(kind: str, mode: str) -> None:
    picture = translucent() if mode in {"LA", "PA", "RGBA"} else Image.fromarray(gradient())
    sixteen_bits = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200)
    data = encoded(sixteen_bits if mode == "I;16" else picture.convert(mode), kind)
    assert np.array_equal(decode(data), as_pillow(data))


def test_each_decoder_before_pillow_gives_what_pillow_gives() -> None:
    """For the rows of the table that the samples have; the fuzzer does the same with all that OpenCV reads."""
    seen = set()
    for data in [*SAMPLES, *(encoded(SMALL.convert(mode), "PNG") for mode in ("1", "L", "RGBA"))]:
        *faster, pillow = chain_of(format_of(data).open(data, DecodeOptions()))
        reference = decode_with([pillow], format_of(data).open(data, DecodeOptions())).pixels
        for decoder in faster:
            raster = decoder.run(format_of(data).open(data, DecodeOptions()))
            if raster is not None:
                seen.add(decoder.name)
                assert np.array_equal(raster.pixels, reference), decoder.name
    assert seen == {"simplejpeg", "opencv"}


def test_pillow_is_last_in_every_row() -> None:
    assert {chain[-1].name for chain in CHAINS.values()} == {"pillow"}
    assert not [key for key, chain in CHAINS.items() if len(chain) < 2], "such a row says nothing"


@pytest.mark.parametrize(
    ("data", "decoder"),
    [
        (encoded(SMALL, "JPEG"), "simplejpeg"),
        (encoded(SMALL.convert("L"), "JPEG"), "simplejpeg"),
        (encoded(SMALL.convert("CMYK"), "JPEG"), "simplejpeg"),
        (flat_jpeg(((3, 1), (1, 1), (1, 1))), "pillow"),
        (encoded(SMALL, "PNG"), "opencv"),
        (encoded(SMALL.convert("P"), "PNG"), "pillow"),
        (encoded(SMALL, "BMP"), "opencv"),
        (encoded(SMALL.convert("P"), "BMP"), "pillow"),
        (encoded(SMALL, "WEBP"), "pillow"),
        (encoded(SMALL, "TIFF"), "pillow"),
        (encoded(SMALL, "GIF"), "pillow"),
    ],
)
def test_the_decoder_that_ran_is_recorded(data: bytes, decoder: str) -> None:
    found = read(data)
    assert (found.decoder, found.truncated) == (decoder, False)
    assert found.size == found.pixels.shape[:2]


def test_a_chain_that_reads_nothing_says_so() -> None:
    data = flat_jpeg(((3, 1), (1, 1), (1, 1)))
    opened = format_of(data).open(data, DecodeOptions())
    with pytest.raises(ImageError, match="unsupported: JPEG RGB is not read by simplejpeg"):
        decode_with(chain_of(opened)[:1], opened)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_counts_in_every_format_that_has_it(kind: str, orientation: int) -> None:
    stored = STORED_AS[orientation](Image.fromarray(gradient()))
    data = encoded(stored, kind, exif=oriented(orientation))
    assert np.array_equal(decode(data), as_pillow(data))
    assert decode(data).shape == gradient().shape
    assert np.abs(decode(data).astype(int) - gradient()).mean() < 4


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_invalid_orientation_is_upright(kind: str, value: int) -> None:
    assert decode(encoded(gradient(), kind, exif=oriented(value))).shape == gradient().shape


def test_damaged_exif_costs_the_orientation_not_the_picture() -> None:
    good = encoded(gradient(), "JPEG", exif=oriented(6))
    at = good.index(b"Exif\0\0") + 6
    for damage in (b"XX", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\xff"):
        data = good[:at] + damage + good[at + len(damage) :]
        assert decode(data).shape == gradient().shape, damage


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(decode(data)[4, 4].astype(int) - [255, 0, 0]).max() < 8, kind


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_thousands_of_frames_only_the_first_is_read(kind: str) -> None:
    first, *others = (Image.new("L", (16, 16), n % 256) for n in range(2000))
    data = encoded(first, kind, save_all=True, append_images=others)
    start = time.process_time()
    assert decode(data).shape == (16, 16, 3)
    assert time.process_time() - start < 0.1


# Transparency


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_transparency_lies_on_the_background(mode: str, kind: str, background: tuple[int, int, int]) -> None:
    data = encoded(translucent().convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = decode(data, DecodeOptions(background=background))
    assert np.array_equal(found, as_pillow(data, background))
    assert found[5, -1].tolist() == list(background)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_becomes_the_background(kind: str) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    data = encoded(image, kind, transparency=0)
    assert decode(data)[0, 0].tolist() == [255, 255, 255]
    found = decode(data, DecodeOptions(background=(1, 2, 3)))
    assert found[0, 0].tolist() == [1, 2, 3]
    assert found[1, 1].tolist() == [0, 0, 255]


# Refusals


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
        (b"RIFF\x24\0\0\0WEBP", "truncated"),
    ],
)
def test_what_is_no_image_says_why(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize("kind", FORMATS)
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


@pytest.mark.parametrize(
    "bomb",
    [
        png(MAX_PIXELS + 1, 1, b"", depth=1, color=0),
        png(2**31 - 1, 2**31 - 1, b"", depth=1, color=0),
        bmp(2**31 - 1, 2**30, b""),
        gif(b"\x02\x4c\x01", width=65535, height=65535),
        flat_jpeg().replace(b"\x08\x00\x30\x00\x40", b"\x08\xff\xff\xff\xff"),
    ],
    ids=["png wide", "png", "bmp", "gif", "jpeg"],
)
def test_a_bomb_is_refused_by_its_header(bomb: bytes) -> None:
    start = time.process_time()
    assert reason_of(bomb) == "too_large"
    assert time.process_time() - start < 0.1


def test_the_limit_on_pixels_is_exact() -> None:
    data = encoded(gradient(10, 10), "PNG")
    assert decode(data, DecodeOptions(max_pixels=100)).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="too_large: 10x10 pixels; the limit is 99"):
        decode(data, DecodeOptions(max_pixels=99))


def test_what_pillow_would_only_warn_of_is_decoded() -> None:
    """Pillow has a limit of its own at 89 million pixels, below ours."""
    assert decode(encoded(Image.new("1", (9_600, 9_600)), "PNG")).shape == (9_600, 9_600, 3)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
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
@settings(max_examples=300)
def test_arbitrary_bytes_give_a_picture_or_a_reason(start: bytes, rest: bytes) -> None:
    assert_image_or_reason(start + rest)


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


# Truncated, and taken as far as it goes


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_picture_is_not_called_truncated_where_that_is_allowed(kind: str) -> None:
    data = encoded(gradient(), kind)
    found = read(data, DecodeOptions(allow_truncated=True))
    assert not found.truncated
    assert np.array_equal(found.pixels, decode(data))


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "TIFF", "GIF"])
def test_the_other_formats_stay_refused(kind: str) -> None:
    data = encoded(gradient(), kind)
    assert reason_of(data[: len(data) // 2], DecodeOptions(allow_truncated=True)) == "truncated"


# Many at a time


def test_decoding_in_many_threads_is_the_same_as_in_one() -> None:
    expected = [decode(sample) for sample in SAMPLES]
    cut = encoded(gradient(), "JPEG")[:-40]
    barrier = threading.Barrier(8)

    def work(number: int) -> list[np.ndarray]:
        barrier.wait(timeout=30)
        if number % 2:  # what one thread allows is not allowed to the others
            picture_or_error(cut)
            read(cut, DecodeOptions(allow_truncated=True))
        return [decode(sample) for sample in SAMPLES]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(8)):
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_settings_of_the_codecs_are_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    whole = (encoded(gradient(), "JPEG"), encoded(gradient(), "PNG"))
    for data in (*whole, *(one[:-40] for one in whole), b"nonsense"):
        for allowed in (False, True):
            try:
                read(data, DecodeOptions(allow_truncated=allowed))
            except ImageError:
                continue
    assert before == (1024**3 // 4 // 3, False, list(warnings.filters))
    assert before[:2] == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for sample in SAMPLES:
        for cut in (None, len(sample) - 3, len(sample) // 2):
            if not sample.startswith(b"II"):  # libtiff, within Pillow, prints its errors
                picture_or_error(sample[:cut])
    assert capfd.readouterr() == ("", "")


# Sources


def test_load_takes_bytes_files_and_pixels(tmp_path: Path) -> None:
    data = encoded(gradient(), "PNG")
    (tmp_path / "image.jpg").write_bytes(data)  # the content counts, not the name
    assert np.array_equal(load(data), gradient())
    assert np.array_equal(load(tmp_path / "image.jpg"), gradient())
    pixels = gradient()
    assert load(pixels) is pixels
    assert read(pixels).decoder == "pixels"


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


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse: it takes no space
    with pytest.raises(ImageError, match=r"too_large: .*1073741825 bytes") as caught:
        load(tmp_path / "huge.png")
    assert caught.value.reason == "too_large"
