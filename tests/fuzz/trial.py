"""One trial: a mutant is decoded, and judged.

A trial fails if

    raised     something else than an `ImageError` came out
    malformed  what came out is no picture, or no reason
    differs    the decoder that ran gave other pixels than Pillow, or OpenCV read what Pillow refuses
    slow       it took more than a second of processor time
    memory     the process grew beyond the limit
    noise      something was printed on stderr

and, seen from outside, if the process died (*crash*) or was stopped because it would not end (*hang*).
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mutations import mutant

from runtime.errors import IMAGE_REASONS, ImageError
from runtime.images import Decoded, DecodeOptions, read
from runtime.images.decoders import chain_of, decode_with, format_of

__all__ = ["FAILURES", "MAX_CPU", "MAX_PIXELS", "MAX_RSS", "Verdict", "draw", "judged"]

MAX_CPU = 1.0  # seconds
MAX_RSS = 500_000_000  # bytes, of the whole process
MAX_PIXELS = 16_000_000  # of a picture: 4 bytes each, twice, would not fit in MAX_RSS with the default limit
FAILURES = ("raised", "malformed", "differs", "slow", "memory", "noise", "crash", "hang")
DEPTH = 24  # where a PNG says its bits a sample
NOISY = (b"II", b"MM")  # Pillow's libtiff prints its errors; nobody else may


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a trial.

    Attributes:
        outcome: ``opencv``, ... (accepted, by that decoder), a reason of `ImageError`, or one of `FAILURES`.
        seconds: Of processor time.
        rss: Largest size of the process so far, in bytes.
        detail: What is to be said of a failure.
    """

    outcome: str
    seconds: float
    rss: int
    detail: str = ""


def draw(seed: int, number: int, seeds: Sequence[bytes]) -> tuple[bytes, DecodeOptions]:
    """Return the mutant with *number*, and how it is to be decoded: always the same."""
    rng = random.Random(f"{seed}:{number}")
    options = DecodeOptions(
        max_pixels=MAX_PIXELS,
        allow_truncated=rng.random() < 0.25,
        background=rng.choice(((255, 255, 255), (0, 128, 255))),
    )
    return mutant(rng, seeds), options


def judged(data: bytes, options: DecodeOptions) -> Verdict:
    """Decode *data*; say what came of it."""
    printed, start = os.fstat(2).st_size, time.process_time()
    outcome, detail, found = "", "", None
    try:
        found = read(data, options)
        outcome, detail = found.decoder, _malformed(found)
    except ImageError as error:
        outcome = error.reason
        detail = "" if error.reason in IMAGE_REASONS and "\n" not in str(error) else f"unknown: {error}"
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return _verdict("raised", start, f"{type(error).__name__}: {error}")
    verdict = _verdict("malformed" if detail else outcome, start, detail)
    if verdict.seconds > MAX_CPU:
        return _verdict("slow", start, f"{verdict.outcome} after {verdict.seconds:.2f} s")
    if verdict.rss > MAX_RSS:
        return _verdict("memory", start, f"{verdict.outcome} with {verdict.rss >> 20} MiB")
    if os.fstat(2).st_size != printed and not data.startswith(NOISY):
        return _verdict("noise", start, verdict.outcome)
    if found is not None and found.decoder != "pillow" and (said := _differs(found, data, options)):
        return _verdict("differs", start, said)
    return verdict


def _verdict(outcome: str, start: float, detail: str) -> Verdict:
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Verdict(outcome=outcome, seconds=time.process_time() - start, rss=rss, detail=detail)


def _malformed(found: Decoded) -> str:
    pixels = found.pixels
    fits = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.flags.c_contiguous
    return "" if fits and pixels.size else f"{pixels.dtype} {pixels.shape}"


def _differs(found: Decoded, data: bytes, options: DecodeOptions) -> str:
    """Return how Pillow, asked alone, disagrees with *found*."""
    try:
        encoded = format_of(data).open(data, options)
        reference = decode_with(chain_of(encoded)[-1:], encoded)
    except Exception as error:  # noqa: BLE001 - its verdict is what counts
        if found.decoder == "simplejpeg":  # it is strict itself, and better with arithmetic coding
            return ""
        return f"{found.decoder} read what Pillow refuses: {type(error).__name__}: {error}"
    if encoded.key is not None and encoded.image.mode == "RGB" and encoded.data[DEPTH] == 16:
        return ""  # a transparent colour of 16 bits: Pillow has 8 to compare it with
    if reference.pixels.shape != found.pixels.shape:
        return f"{found.decoder} {found.pixels.shape}, Pillow {reference.pixels.shape}"
    if np.array_equal(reference.pixels, found.pixels):
        return ""
    difference = np.abs(reference.pixels.astype(int) - found.pixels)
    return f"{found.decoder} differs by up to {difference.max()} in {np.count_nonzero(difference)} values"
