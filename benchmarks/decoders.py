"""Milliseconds from file to RGB pixels: `runtime.images` beside Pillow, for every kind of file.

python benchmarks/decoders.py [--repeats 15]

Pillow's column is the script that decodes the same: `Image.open`, `ImageOps.exif_transpose`, transparency
composed on white, `convert("RGB")`, `numpy.asarray`. Both give the same pixels, or the benchmark says so and
fails. One photograph of COCO in every form, in this process, one thread, processor time, taking turns.

What `runtime.images` does besides: it checks that every pixel is there, which Pillow does not.

Needs Vedette's test data (VEDETTE_TEST_DATA), or --image.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from record import RESULTS, TEST_DATA, environment, keep

from runtime.images import decode, read

PACKAGES = ("pillow", "simplejpeg", "opencv-python-headless")
PHOTOGRAPH = TEST_DATA / "images" / "coco12" / "000000006818.jpg"


def pillow(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the picture as a script with Pillow decodes it."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def files(photograph: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file) of the photograph in every form."""
    rgb, gray, palette = photograph, photograph.convert("L"), photograph.convert("P")
    rgba = rgb.copy()
    rgba.putalpha(gray)
    forms: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("JPEG", rgb, "JPEG", {"quality": 90}),
        ("JPEG progressive", rgb, "JPEG", {"quality": 90, "progressive": True}),
        ("JPEG gray", gray, "JPEG", {"quality": 90}),
        ("JPEG CMYK", rgb.convert("CMYK"), "JPEG", {"quality": 90}),
        ("PNG RGB", rgb, "PNG", {}),
        ("PNG gray", gray, "PNG", {}),
        ("PNG RGB and alpha", rgba, "PNG", {}),
        ("PNG gray and alpha", rgba.convert("LA"), "PNG", {}),
        ("PNG palette", palette, "PNG", {}),
        ("WebP lossy", rgb, "WEBP", {}),
        ("WebP lossless", rgb, "WEBP", {"lossless": True}),
        ("BMP RGB", rgb, "BMP", {}),
        ("BMP gray", gray, "BMP", {}),
        ("BMP palette", palette, "BMP", {}),
        ("TIFF", rgb, "TIFF", {}),
        ("TIFF LZW", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF JPEG", rgb, "TIFF", {"compression": "jpeg"}),
        ("GIF", palette, "GIF", {}),
    ]
    for name, image, kind, options in forms:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        yield name, buffer.getvalue()


def milliseconds(function: Callable[[bytes], object], data: bytes) -> float:
    """Return the processor time of one call."""
    started = time.process_time()
    function(data)
    return (time.process_time() - started) * 1e3


def compare(data: bytes, repeats: int) -> dict[str, Any]:
    """Return the medians of both ways over *repeats* turns, and whether they agree."""
    ours, theirs = [], []
    for turn in range(repeats + 1):
        one, other = milliseconds(decode, data), milliseconds(pillow, data)
        if turn > 0:  # the first warms caches
            ours.append(one)
            theirs.append(other)
    return {
        "decoder": read(data).decoder,
        "vedette_ms": statistics.median(ours),
        "pillow_ms": statistics.median(theirs),
        "same": bool(np.array_equal(decode(data), pillow(data))),
    }


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", type=Path, default=PHOTOGRAPH)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS / "decoders.json")
    arguments = parser.parse_args()
    if not arguments.image.exists():
        raise SystemExit(f"{arguments.image} does not exist; set VEDETTE_TEST_DATA, or give --image")
    photograph = Image.open(arguments.image).convert("RGB")
    figures = {name: compare(data, arguments.repeats) for name, data in files(photograph)}
    print(f"{photograph.width}x{photograph.height} pixels; milliseconds, median of {arguments.repeats}")
    for name, found in figures.items():
        ratio = found["pillow_ms"] / found["vedette_ms"]
        mark = "" if found["same"] else "  OTHER PIXELS"
        print(
            f"{name:20} {found['decoder']:10} {found['vedette_ms']:6.2f}  "
            f"Pillow {found['pillow_ms']:6.2f}  {ratio:5.2f} x{mark}"
        )
    keep({**environment(PACKAGES), "figures": figures}, arguments.results)
    print(f"wrote {arguments.results}")
    if not all(found["same"] for found in figures.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
