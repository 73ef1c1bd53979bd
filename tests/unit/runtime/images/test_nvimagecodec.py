"""nvImageCodec as a decoder: a double of its module, and its real codecs of the CPU."""

from __future__ import annotations

import importlib
import io
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from picture_checks import reason_of
from picture_files import encoded, gradient
from PIL import Image

from runtime.images import DecodeOptions, nvimagecodec, read
from runtime.images.decoders import ACCELERATED

FIRST = DecodeOptions(decoder="nvimagecodec")


class Double(ModuleType):
    """The parts of `nvidia.nvimgcodec` that are used, of version 0.9; Pillow decodes."""

    ColorSpec = SimpleNamespace(SRGB="srgb")
    BackendKind = SimpleNamespace(HW_GPU_ONLY="hw", GPU_ONLY="gpu", HYBRID_CPU_GPU="hybrid", CPU_ONLY="cpu")

    def __init__(self) -> None:
        super().__init__(nvimagecodec.MODULE)
        self.made: list[dict[str, Any]] = []  # decoders
        self.threads: set[int] = set()
        self.failure: Exception | None = None
        self.refuses = False

    def Backend(self, kind: str) -> str:  # noqa: N802 - its name
        return kind

    def DecodeParams(self, **fields: Any) -> dict[str, Any]:  # noqa: N802
        return fields

    def Decoder(self, **fields: Any) -> Any:  # noqa: N802
        if self.failure is not None:
            raise self.failure
        self.made.append(fields)
        owner = threading.get_ident()

        def decode(data: bytes, *, params: dict[str, Any]) -> Any:
            assert threading.get_ident() == owner
            assert params == {"apply_exif_orientation": False, "color_spec": "srgb"}
            if self.failure is not None:
                raise self.failure
            if self.refuses:
                return None
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            return SimpleNamespace(cpu=lambda: pixels)

        return SimpleNamespace(decode=decode)


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What one test has found out or made is no other's."""
    nvimagecodec.unavailable.cache_clear()
    nvimagecodec._decoders = threading.local()
    yield
    nvimagecodec.unavailable.cache_clear()
    nvimagecodec._decoders = threading.local()


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    module = Double()
    monkeypatch.setitem(sys.modules, nvimagecodec.MODULE, module)
    return module


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_it_decodes_whole_jpegs_when_it_is_asked_for(double: Double, mode: str, options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(gradient()).convert(mode), "JPEG", **options)
    assert read(data).decoder == "simplejpeg"
    found = read(data, FIRST)
    assert found.decoder == "nvimagecodec"
    np.testing.assert_array_equal(found.pixels, read(data).pixels)
    assert double.made[-1] == {
        "device_id": -1,
        "max_num_cpu_threads": 1,
        "backends": ["hw", "gpu", "hybrid"],
        "options": ":fancy_upsampling=1",
    }


def test_the_orientation_is_applied_once(double: Double) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(gradient(), "JPEG", exif=exif)
    found = read(data, FIRST)
    assert (found.decoder, found.size) == ("nvimagecodec", (60, 40))
    np.testing.assert_array_equal(found.pixels, read(data).pixels)


PICTURE = Image.fromarray(gradient())
OTHERS = {
    "png": encoded(PICTURE, "PNG"),
    "webp": encoded(PICTURE, "WEBP"),
    "cmyk": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "not in YCbCr": encoded(PICTURE, "JPEG", keep_rgb=True),
    "odd": encoded(PICTURE, "JPEG").replace(b"JFIF\0\1\1", b"JFIF\0\7\7"),
}


@pytest.mark.parametrize("data", list(OTHERS.values()), ids=list(OTHERS))
def test_everything_else_is_for_the_decoders_of_the_cpu(double: Double, data: bytes) -> None:
    found = read(data, FIRST)
    assert found.decoder == read(data).decoder != "nvimagecodec"
    np.testing.assert_array_equal(found.pixels, read(data).pixels)


WHOLE = encoded(gradient(200, 300), "JPEG")
BAD = {
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut, with an end": WHOLE[: len(WHOLE) // 2] + b"\xff\xd9",
    "no image": b"nothing of the kind",
    "empty": b"",
    "header only": WHOLE[:20],
}


@pytest.mark.parametrize("data", list(BAD.values()), ids=list(BAD))
def test_bad_images_have_the_reasons_of_always(double: Double, data: bytes) -> None:
    assert reason_of(data, FIRST) == reason_of(data)


def test_what_is_there_of_a_picture_is_taken_where_that_is_allowed(double: Double) -> None:
    lenient = DecodeOptions(decoder="nvimagecodec", allow_truncated=True)
    found = read(BAD["cut"], lenient)
    assert (found.decoder, found.truncated) == ("simplejpeg", True)


def test_what_it_refuses_or_fails_on_the_next_decoder_reads(double: Double) -> None:
    double.refuses = True
    assert read(WHOLE, FIRST).decoder == "simplejpeg"
    double.refuses = False
    assert read(WHOLE, FIRST).decoder == "nvimagecodec"
    double.failure = RuntimeError("CUDA Runtime failure: '#2'")
    assert read(WHOLE, FIRST).decoder == "simplejpeg"


def test_each_thread_has_a_decoder_of_its_own(double: Double) -> None:
    decoders = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: decoders.extend(read(WHOLE, FIRST).decoder for _ in range(4)))
        thread.start()
        thread.join()
    assert decoders == ["nvimagecodec"] * 12
    assert len(double.made) == 4  # and one that found out whether there is a GPU


def test_a_machine_without_a_gpu_is_told_and_decodes_all_the_same(double: Double) -> None:
    double.failure = RuntimeError("CUDA Runtime failure: '#35'\n at some place")
    assert ACCELERATED["nvimagecodec"].unavailable() == "CUDA Runtime failure: '#35' at some place"
    assert read(WHOLE, FIRST).decoder == "simplejpeg"


def test_a_machine_without_the_package_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, nvimagecodec.MODULE, None)
    assert "pip install 'nvidia-nvimgcodec-cu12[all]'" in ACCELERATED["nvimagecodec"].unavailable()
    assert read(WHOLE, FIRST).decoder == "simplejpeg"


# The real module, on the CPU: the same calls, and codecs that need no GPU


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip(nvimagecodec.MODULE)
    monkeypatch.setattr(nvimagecodec, "BACKENDS", ("CPU_ONLY",))
    monkeypatch.setattr(nvimagecodec, "DEVICE", module.NVIMGCODEC_DEVICE_CPU_ONLY)
    return module


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_its_codecs_of_the_cpu_give_the_same_pixels(on_cpu: Any, mode: str, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    picture = Image.fromarray(noise).resize((321, 243), Image.Resampling.BICUBIC).convert(mode)
    data = encoded(picture, "JPEG", **options)
    found = read(data, FIRST)
    assert found.decoder == "nvimagecodec"
    np.testing.assert_array_equal(found.pixels, read(data).pixels)


@pytest.mark.parametrize("data", list(BAD.values()), ids=list(BAD))
def test_with_the_real_module_bad_images_have_the_reasons_of_always(on_cpu: Any, data: bytes) -> None:
    assert reason_of(data, FIRST) == reason_of(data)


def test_it_lets_damage_pass_which_is_why_it_sees_whole_files_only(on_cpu: Any) -> None:
    codec = nvimagecodec._Codec(importlib.import_module(nvimagecodec.MODULE))
    samples = codec(BAD["cut, with an end"])
    assert samples.shape == (200, 300, 3)
    assert (samples[-1] == 128).all()


def test_without_a_gpu_the_real_module_says_so(request: pytest.FixtureRequest) -> None:
    pytest.importorskip(nvimagecodec.MODULE)
    why = nvimagecodec.unavailable()
    assert why == "" or "CUDA" in why
