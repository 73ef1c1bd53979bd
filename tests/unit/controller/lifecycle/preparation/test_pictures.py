"""What a source says of its pictures, and what a person may say beside it."""

from __future__ import annotations

import pytest

from controller.lifecycle.preparation.pictures import _agreed
from controller.lifecycle.preparation.presets import PRESETS
from runtime.errors import UsageError
from runtime.manifest import Preprocess, Resize

RAW = Preprocess(mean=(0.0,), std=(1.0,))


def test_source_that_normalizes_itself_may_be_told_sizes() -> None:
    sizes = Preprocess(resize=Resize(size=40), crop=(32, 32))
    assert _agreed("m.keras", RAW, sizes) is sizes
    assert _agreed("m.keras", RAW, None) is RAW
    assert _agreed("m.keras", None, sizes) is sizes
    assert _agreed("m.keras", None, None) is None


@pytest.mark.parametrize("preset", ["unit", "imagenet", "caffe"])
def test_other_numbers_than_its_own_are_refused(preset: str) -> None:
    with pytest.raises(UsageError, match=r"normalizes its pictures itself; .* must be 1, 0, 1 and RGB"):
        _agreed("m.keras", RAW, PRESETS[preset])


def test_source_that_knows_everything_is_told_nothing() -> None:
    whole = Preprocess(resize=Resize(size=40), crop=(32, 32))
    with pytest.raises(UsageError, match="says itself how its pictures are prepared; leave --preprocess out"):
        _agreed("run", whole, whole)
