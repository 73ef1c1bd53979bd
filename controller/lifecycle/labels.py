"""The names of classes and keypoints: from a person's file, from the model, or made up.

Rules:
    * A file is text, one name a line in index order; or lines that all begin with their index (``0 person``,
      ``17: cat``); or JSON, a list of names or an object from index to name.
    * An index that the file leaves out is ``class_<index>``.
    * As many names as the model has classes, or an error says both numbers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from controller.lifecycle.heads.metadata import class_names
from runtime.errors import UsageError

__all__ = ["agreed_labels", "read_names"]

NUMBERED = re.compile(r"(\d{1,5})\s*[:,\s]\s*(\S.*)")


def read_names(path: Path, what: str = "labels") -> tuple[str, ...]:
    """Return the names in the file *path*, in index order; empty lines at its end do not count.

    Args:
        path: Text or JSON.
        what: The file is called in errors.

    Raises:
        UsageError: It is not there, not UTF-8, holds no names, or is JSON of another kind.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{what} file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path, what)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise UsageError(f"{what} file {path} is empty; expected one name a line")
    return _numbered(lines) or tuple(lines)


def _from_json(text: str, path: Path, what: str) -> tuple[str, ...]:
    try:
        return class_names(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} file {path}: {' '.join(str(error).split())[:200]}; as JSON it is a list of names or an object "
            "from index to name"
        ) from None


def _numbered(lines: list[str]) -> tuple[str, ...] | None:
    """Return the names of *lines* that all begin with an index of their own; ``None`` if they do not."""
    found = [NUMBERED.fullmatch(line) for line in lines if line]
    pairs = {int(match[1]): match[2].strip() for match in found if match}
    if len(pairs) < len(found):
        return None
    return class_names(pairs)


def agreed_labels(
    classes: int | None, given: tuple[str, ...] | None, own: tuple[str, ...] | None
) -> tuple[tuple[str, ...], str | None]:
    """Return the class names of a model, and a note if some had to be made up or are missing.

    Args:
        classes: How many the model has; ``None`` if nothing says.
        given: By a person.
        own: By the model.

    Raises:
        UsageError: The number of names given is not that of the classes.
    """
    if given is not None and classes not in {None, len(given)}:
        raise UsageError(f"the labels file names {len(given)} classes, the model has {classes}")
    if given is None and own is not None and classes not in {None, len(own)}:
        own = None
    names = given or own
    if names is not None:
        return names, None
    if classes is None:
        return (), "nothing says how many classes there are: they are called class_<index>; give --labels"
    return tuple(f"class_{index}" for index in range(classes)), None
