"""Which formats are read, and by which decoders in which order.

Rules:
    * The signature chooses the format, the name of a file says nothing.
    * A decoder that does not read such a file declines, and the next one in its row is asked. Pillow, the
      reference, stands at the end of every row and does not decline.
    * A faster decoder stands before it only where it gives the same pixels, bit for bit, and is faster:
      `docs/images.md` has the figures, the tests the comparison. One of which that is not shown (`ACCELERATED`)
      stands before all others only where it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.GifImagePlugin import GifImageFile

from runtime.errors import ImageError
from runtime.images import bmp, jpeg, nvimagecodec, opencv, png, tiff, webp
from runtime.images.base import Decoded, DecodeOptions, Encoded, Pixels, Raster, read_header
from runtime.images.color import from_pillow
from runtime.images.orientation import upright

__all__ = ["ACCELERATED", "CHAINS", "FORMATS", "Decoder", "Format", "chain_of", "decode_with", "format_of"]


@dataclass(frozen=True, slots=True)
class Format:
    """A format that is read.

    Attributes:
        signature: How its files begin.
        open: Reads the header and checks what must hold before pixels are decoded.
    """

    signature: re.Pattern[bytes]
    open: Callable[[bytes, DecodeOptions], Encoded]


@dataclass(frozen=True, slots=True)
class Decoder:
    """One way from an `Encoded` to its pixels; it returns ``None`` for what it does not read.

    Attributes:
        name: Of what decodes.
        run: Decodes.
        unavailable: Why it cannot be used on this machine; empty if it can.
    """

    name: str
    run: Callable[[Encoded], Raster | None]
    unavailable: Callable[[], str] = str


def open_gif(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the GIF *data*, and of its first frame."""
    return Encoded(data=data, image=read_header(GifImageFile, data, options), options=options)


def with_pillow(encoded: Encoded) -> Raster:
    """Return what Pillow makes of it."""
    return Raster(from_pillow(encoded.image, encoded.options, encoded.key))


FORMATS: Sequence[Format] = (
    Format(re.compile(rb"\xff\xd8\xff"), jpeg.open_jpeg),
    Format(re.compile(rb"\x89PNG"), png.open_png),
    Format(re.compile(rb"RIFF.{4}WEBP", re.DOTALL), webp.open_webp),
    Format(re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), bmp.open_bmp),  # known header sizes
    Format(re.compile(rb"II[*+]\0|MM\0[*+]"), tiff.open_tiff),
    Format(re.compile(rb"GIF8[79]a"), open_gif),
)

PILLOW = Decoder("pillow", with_pillow)
OPENCV = Decoder("opencv", opencv.with_opencv)
JPEG = (Decoder("simplejpeg", jpeg.with_simplejpeg), Decoder("pillow", jpeg.with_pillow))
BMP = (Decoder("opencv", bmp.with_opencv_if_plain), PILLOW)

# By format and mode, as Pillow calls them; what has no row is read by Pillow alone.
CHAINS: Mapping[tuple[str, str], Sequence[Decoder]] = {
    ("JPEG", "RGB"): JPEG,
    ("JPEG", "L"): JPEG,
    ("JPEG", "CMYK"): JPEG,
    ("PNG", "1"): (OPENCV, PILLOW),
    ("PNG", "L"): (OPENCV, PILLOW),
    ("PNG", "I;16"): (OPENCV, PILLOW),
    ("PNG", "RGB"): (OPENCV, PILLOW),
    ("PNG", "RGBA"): (OPENCV, PILLOW),
    ("BMP", "RGB"): BMP,
    ("BMP", "L"): BMP,
}


ACCELERATED: Mapping[str, Decoder] = {
    one.name: one
    for one in (Decoder("nvimagecodec", nvimagecodec.with_nvimagecodec, unavailable=nvimagecodec.unavailable),)
}
"""By name: what is asked before all others where `DecodeOptions.decoder` says so."""


def format_of(data: bytes) -> Format:
    """Return the format whose signature *data* has.

    Raises:
        ImageError: ``not_an_image``: it has none of them.
    """
    found = next((one for one in FORMATS if one.signature.match(data)), None)
    if found is None:
        raise ImageError("not_an_image", f"{len(data)} bytes that begin with {data[:8]!r}")
    return found


def chain_of(encoded: Encoded) -> Sequence[Decoder]:
    """Return the decoders to try, in order; the last one is Pillow."""
    chain = CHAINS.get((str(encoded.image.format), encoded.image.mode), (PILLOW,))
    first = ACCELERATED.get(encoded.options.decoder)
    return chain if first is None else (first, *chain)


def decode_with(chain: Sequence[Decoder], encoded: Encoded) -> Decoded:
    """Return the picture, from the first decoder of *chain* that reads it.

    Raises:
        ImageError: It is no usable picture, or none of *chain* reads it.
        Exception: Whatever a codec raises for broken data; see `base.explained`.
    """
    for decoder in chain:
        raster = decoder.run(encoded)
        if raster is not None:
            pixels = upright(_filled(raster.pixels, encoded), encoded.orientation)
            return Decoded(pixels, decoder.name, raster.truncated or encoded.rows is not None)
    tried = ", ".join(decoder.name for decoder in chain)
    raise ImageError("unsupported", f"{encoded.image.format} {encoded.image.mode} is not read by {tried}")


def _filled(pixels: Pixels, encoded: Encoded) -> Pixels:
    """Return *pixels* with the background in the rows that are missing."""
    if encoded.rows is None:
        return pixels
    background = np.broadcast_to(np.asarray(encoded.options.background, np.uint8), pixels[encoded.rows :].shape)
    return np.concatenate((pixels[: encoded.rows], background))
