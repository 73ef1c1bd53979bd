"""The tree in the docstring is the tree in the code, and errors survive the way between processes."""

from __future__ import annotations

import pickle
import re

import pytest

from runtime import errors
from runtime.errors import IMAGE_REASONS, ImageError, UsageError, VedetteError

CLASSES = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


def test_the_tree_drawn_is_the_tree_there() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    assert drawn == {kind.__name__ for kind in CLASSES} - {"VedetteError"}
    assert all(issubclass(kind, VedetteError) for kind in CLASSES)
    assert {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)} == set(
        CLASSES
    )


def test_only_a_wrong_call_exits_with_2() -> None:
    assert {kind for kind in CLASSES if kind.exit_code == 2} == {UsageError}
    assert {kind.exit_code for kind in CLASSES} == {1, 2}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_pickling(kind: type[VedetteError]) -> None:
    error = kind("truncated", "it ends early") if kind is ImageError else kind("what happened")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("reason", IMAGE_REASONS)
def test_an_image_error_says_its_reason_and_detail(reason: errors.ImageReason) -> None:
    error = ImageError(reason, "a.jpg: 3 bytes")
    assert (error.reason, error.detail, str(error)) == (reason, "a.jpg: 3 bytes", f"{reason}: a.jpg: 3 bytes")
