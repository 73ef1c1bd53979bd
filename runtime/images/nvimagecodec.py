"""JPEGs by NVIDIA's nvImageCodec, on a GPU; only where it was asked for (`DecodeOptions.decoder`).

Rules:
    * It stands before the other decoders, and declines what it does not read or fails on: those say what is wrong
      with a picture, in the words and reason codes of always.
    * It sees only JPEGs that are whole: it gives gray for compressed data that is missing and tells nobody (0.9.0, of a
      file cut in half with an end marker put behind it). Reading the compressed data once on the CPU finds that
      out, in a third of the time that decoding takes there.
    * Only codecs that use the GPU are allowed: what it would decode on the CPU our own decoders do.
    * It decides nothing: orientation and everything after the samples is ours.
    * A thread has a decoder of its own.

Nothing is claimed of how well a GPU's pixels agree with Pillow's: that needs the hardware. On a CPU its codecs give
the same, bit for bit, which the tests look at.

Source: docs.nvidia.com/cuda/nvimagecodec/py_api.html.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from runtime.images.base import Encoded, Raster
from runtime.images.jpeg import is_clean

__all__ = ["BACKENDS", "MODULE", "unavailable", "with_nvimagecodec"]

MODULE = "nvidia.nvimgcodec"
BACKENDS: Sequence[str] = ("HW_GPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU")  # of `BackendKind`
OPTIONS = ":fancy_upsampling=1"  # as libjpeg does it by default
DEVICE = -1  # the current one
MODES = frozenset({"RGB", "L"})  # Pillow's: CMYK is turned to RGB by our own formula
PLAIN_RGB = [82, 71, 66]  # ids of the components of a JPEG that is not in YCbCr, by libjpeg's rule (jdapimin.c)

_decoders = threading.local()


class _Codec:
    """A decoder of nvImageCodec and how it is asked; for one thread.

    Raises:
        Exception: nvImageCodec's own: there is no GPU, or no driver.
    """

    def __init__(self, module: Any) -> None:
        backends = [module.Backend(getattr(module.BackendKind, name)) for name in BACKENDS]
        self._decoder = module.Decoder(device_id=DEVICE, max_num_cpu_threads=1, backends=backends, options=OPTIONS)
        self._params = module.DecodeParams(apply_exif_orientation=False, color_spec=module.ColorSpec.SRGB)

    def __call__(self, data: bytes) -> Any:
        """Return the samples in the CPU's memory; ``None`` if it does not read *data*."""
        image = self._decoder.decode(data, params=self._params)
        return None if image is None else np.asarray(image.cpu())


@cache
def unavailable() -> str:
    """Return why nvImageCodec cannot be used on this machine; empty if it can."""
    try:
        module = importlib.import_module(MODULE)
    except ImportError:
        return "it is not installed: pip install 'nvidia-nvimgcodec-cu12[all]', or -cu13"
    try:
        _Codec(module)
    except Exception as error:  # noqa: BLE001 - what a driver raises has no base of its own
        return " ".join(str(error).split())
    return ""


def with_nvimagecodec(encoded: Encoded) -> Raster | None:
    """Return what nvImageCodec makes of a JPEG; ``None`` if it does not read it, or its data is not whole."""
    if unavailable() or not _is_usual(encoded.image) or not is_clean(encoded.data, encoded.image.mode):
        return None
    codec = getattr(_decoders, "codec", None)
    try:
        if codec is None:
            codec = _decoders.codec = _Codec(importlib.import_module(MODULE))
        samples = codec(encoded.data)
    except Exception:  # noqa: BLE001 - no memory left on the GPU, for one; the next decoder needs none
        return None
    if samples is None or samples.dtype != np.uint8 or samples.shape != (*encoded.size, 3):
        return None
    return Raster(np.ascontiguousarray(samples))


def _is_usual(image: ImageFile) -> bool:
    """Whether *image* is a JPEG of gray or of YCbCr, about which no two codecs are of two minds."""
    if not isinstance(image, JpegImageFile) or image.mode not in MODES:
        return False
    components = [layer[0] for layer in image.layer]
    return image.mode == "L" or (image.info.get("adobe_transform", 1) == 1 and components != PLAIN_RGB)
