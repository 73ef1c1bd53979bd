"""Which pictures are meant by the words of a command line.

Rules:
    * A directory stands for the pictures below it, by the suffix of their names, sorted; hidden ones are left out.
    * A pattern that the shell did not expand (in quotes, say) stands for what it matches.
    * Any other word is a picture's path, whether something is there or not: what is wrong with it, its reader says.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.datasets.folder import IMAGE_SUFFIXES
from runtime.errors import UsageError

__all__ = ["find_pictures"]


def find_pictures(words: Iterable[Path]) -> list[Path]:
    """Return the paths of the pictures that *words* mean, in their order.

    Raises:
        UsageError: A directory holds none, or a pattern matches nothing.
    """
    return [picture for word in words for picture in _pictures(word)]


def _pictures(word: Path) -> Iterable[Path]:
    if word.is_dir():
        return _filled(sorted(_below(word)), f"{word} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if not word.exists() and glob.has_magic(str(word)):
        found = sorted(Path(name) for name in glob.glob(str(word), recursive=True))  # noqa: PTH207 - takes absolute ones
        return [picture for path in _filled(found, f"{word} matches no file") for picture in _pictures(path)]
    return [word]


def _below(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path


def _filled(paths: list[Path], otherwise: str) -> list[Path]:
    if not paths:
        raise UsageError(otherwise)
    return paths
