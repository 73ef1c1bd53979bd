"""``python -m cluster.report.glimpse``: what can be seen of pictures that are no usable images, as small JPEGs.

A process of its own, with limits of memory and time: the bytes are those that decoders refused.
Input and output are, for each picture, its length in 8 bytes (big-endian) and so many bytes; an output of length 0
stands for a picture of which nothing can be seen.
"""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO

__all__ = ["glimpses"]

SIDE = 240  # pixels, at most
MEMORY = 4 << 30  # bytes of address space
SECONDS = 20  # of the processor, and of the clock
LENGTH = struct.Struct(">Q")


def glimpses(pictures: Sequence[bytes]) -> list[bytes]:
    """Return, for each of *pictures*, a JPEG of at most `SIDE` pixels a side; empty where there is nothing to see."""
    if not pictures:
        return []
    asked = b"".join(LENGTH.pack(len(data)) + data for data in pictures)
    call = [sys.executable, "-m", __name__]
    try:
        told = subprocess.run(call, input=asked, capture_output=True, timeout=SECONDS, check=False).stdout
    except subprocess.TimeoutExpired as late:
        told = late.stdout or b""
    found = list(_records(io.BytesIO(told)))
    return [*found, *[b""] * (len(pictures) - len(found))]  # those after one at which the process died


def _records(file: IO[bytes]) -> Iterator[bytes]:
    while len(head := file.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        if len(data := file.read(length)) < length:
            return
        yield data


def _glimpse(data: bytes) -> bytes:
    from PIL import Image

    from runtime.images import DecodeOptions, decode

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.format == "JPEG":
                opened.draft("RGB", (SIDE, SIDE))  # a JPEG of any size is read at an eighth of it
            options = DecodeOptions(allow_truncated=True)
            large = opened.width * opened.height > options.max_pixels
            if opened.format == "JPEG" and opened.size[0] * opened.size[1] <= options.max_pixels and large:
                picture = opened.convert("RGB")
            else:
                picture = Image.fromarray(decode(data, options))
        picture.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
    except Exception:  # noqa: BLE001 - bytes that are no image may raise anything; nothing is seen of them
        return b""
    return buffer.getvalue()


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for data in _records(sys.stdin.buffer):
        seen = _glimpse(data)
        sys.stdout.buffer.write(LENGTH.pack(len(seen)) + seen)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
