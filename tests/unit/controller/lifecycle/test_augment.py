from __future__ import annotations

import pytest
import torch

from controller.lifecycle.training import augment
from runtime.errors import UsageError


@pytest.fixture
def images() -> torch.Tensor:
    return torch.arange(64 * 3 * 16 * 12).remainder(251).to(torch.uint8).reshape(64, 3, 16, 12)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_about_half_and_leaves_the_others(images: torch.Tensor) -> None:
    flipped = augment.flip(images, generator())
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


def test_crop_shows_the_padded_picture_through_a_moved_window(images: torch.Tensor) -> None:
    cropped = augment.crop(images, generator())
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    padded = torch.nn.functional.pad(images.float(), (1, 1, 2, 2), mode="reflect").to(torch.uint8)
    offsets = set()
    for picture, whole in zip(cropped, padded, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(3)
            if torch.equal(picture, whole[:, top : top + 16, left : left + 12])
        ]
        assert found
        offsets.update(found)
    assert len(offsets) > 8


@pytest.mark.parametrize("name", augment.TRANSFORMS)
def test_transforms_depend_on_the_generator_alone(name: str, images: torch.Tensor) -> None:
    transform = augment.TRANSFORMS[name]
    torch.manual_seed(5)
    first = transform(images, generator(3))
    torch.manual_seed(6)
    assert torch.equal(first, transform(images, generator(3)))
    assert not torch.equal(first, transform(images, generator(4)))


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
