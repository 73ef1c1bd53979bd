from __future__ import annotations

import numpy as np
import pytest

from controller.lifecycle.training import augment
from controller.lifecycle.training.samples import Pixels
from runtime.errors import UsageError


@pytest.fixture
def images() -> Pixels:
    return (np.arange(64 * 16 * 12 * 3) % 251).astype(np.uint8).reshape(64, 16, 12, 3)


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_flip_mirrors_about_half_and_leaves_the_others(images: Pixels) -> None:
    flipped = augment.flip(images, generator())
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


def test_crop_shows_the_padded_picture_through_a_moved_window(images: Pixels) -> None:
    cropped = augment.crop(images, generator())
    assert cropped.shape == images.shape
    assert cropped.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (2, 2), (1, 1), (0, 0)), mode="reflect")
    offsets = set()
    for picture, whole in zip(cropped, padded, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(3)
            if np.array_equal(picture, whole[top : top + 16, left : left + 12])
        ]
        assert found
        offsets.update(found)
    assert len(offsets) > 8


@pytest.mark.parametrize("name", augment.TRANSFORMS)
def test_transforms_depend_on_the_generator_alone(name: str, images: Pixels) -> None:
    transform = augment.TRANSFORMS[name]
    first = transform(images, generator(3))
    assert np.array_equal(first, transform(images, generator(3)))
    assert not np.array_equal(first, transform(images, generator(4)))


@pytest.mark.parametrize(
    ("labels", "gray", "chosen"),
    [
        (("0", "1", "2"), True, ()),
        (("a", "b"), False, ()),
        (("class_0", "class_1"), True, ()),
        (("class_0", "class_1"), False, ("flip", "crop")),
        (("cat", "dog"), False, ("flip", "crop")),
        (("shirt", "bag"), True, ("flip", "crop")),
    ],
)
def test_auto_leaves_characters_alone(labels: tuple[str, ...], gray: bool, chosen: tuple[str, ...]) -> None:
    assert augment.choose("auto", labels, gray=gray) == chosen


def test_setting_is_followed_or_refused() -> None:
    assert augment.choose("none", ("cat", "dog"), gray=False) == ()
    assert augment.choose("crop, flip", ("0", "1"), gray=True) == ("crop", "flip")
    with pytest.raises(UsageError, match="unknown augmentation 'rotate'; expected auto, none, or out of flip, crop"):
        augment.choose("flip,rotate", ("cat", "dog"), gray=False)
