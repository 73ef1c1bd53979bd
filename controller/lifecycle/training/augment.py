"""Augmentation: a table of transforms, and which of them suit which data.

Rules:
    * Every random number comes from the generator that is passed in, so that a resumed epoch sees
      the same pictures as an uninterrupted one.
    * A mirrored digit or letter is another sign, or none, and a shifted one of 8 pixels is cut:
      where the pictures are characters nothing is done to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from controller.lifecycle.training.samples import Pixels
from runtime.errors import UsageError

__all__ = ["AUTO", "NONE", "SUITABLE", "TRANSFORMS", "choose", "crop", "flip"]

AUTO, NONE = "auto", "none"
PAD_SHARE = 8  # a padded crop moves a picture by at most an eighth of its size, as 4 of CIFAR's 32 pixels

Transform = Callable[[Pixels, np.random.Generator], Pixels]


def flip(images: Pixels, generator: np.random.Generator) -> Pixels:
    """Mirror half of *images* (n, h, w, c), left to right."""
    mirrored = generator.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def crop(images: Pixels, generator: np.random.Generator) -> Pixels:
    """Move each of *images* (n, h, w, c) by a random amount, filled up by reflection: a padded crop without padding."""
    count, height, width, _ = images.shape
    rows = _moved(count, height, generator)[:, :, None]
    columns = _moved(count, width, generator)[:, None, :]
    return images[np.arange(count)[:, None, None], rows, columns]


def _moved(count: int, size: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return (count, size) source positions along an edge of *size* pixels, each row moved by one random amount."""
    pad = min(max(1, size // PAD_SHARE), size - 1)
    moves = generator.integers(-pad, pad + 1, (count, 1))
    last = size - 1
    return np.asarray(last - np.abs(last - np.abs(moves + np.arange(size))), np.int64)


TRANSFORMS: Mapping[str, Transform] = {"flip": flip, "crop": crop}

SUITABLE: Mapping[str, tuple[str, ...]] = {
    "characters": (),  # every class is called by one character: digits, letters
    "gray and unnamed": (),  # as the MNIST family comes; whether it shows characters cannot be known
    "pictures": ("flip", "crop"),
}


def _kind(label_names: Sequence[str], *, gray: bool) -> str:
    if all(len(name) == 1 for name in label_names):
        return "characters"
    unnamed = all(name == f"class_{index}" for index, name in enumerate(label_names))
    return "gray and unnamed" if gray and unnamed else "pictures"


def choose(setting: str, label_names: Sequence[str], *, gray: bool) -> tuple[str, ...]:
    """Return the names of the transforms that *setting* means for these pictures.

    Args:
        setting: ``auto``, ``none``, or names out of `TRANSFORMS`, comma-separated.
        label_names: The classes.
        gray: Whether the pictures have no colour.

    Raises:
        UsageError: *setting* names an unknown transform.
    """
    if setting == NONE:
        return ()
    if setting == AUTO:
        return SUITABLE[_kind(label_names, gray=gray)]
    names = tuple(name.strip() for name in setting.split(","))
    if unknown := [name for name in names if name not in TRANSFORMS]:
        raise UsageError(
            f"unknown augmentation {', '.join(map(repr, unknown))}; "
            f"expected {AUTO}, {NONE}, or out of {', '.join(TRANSFORMS)}"
        )
    return names
